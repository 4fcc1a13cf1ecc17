"""The API of preheats: what each wrong input is answered, and who is let in."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from p2pd.admin.secret import authorization
from p2pd.config.settings import Settings
from p2pd.daemon.preheating import SchedulerPreheats
from p2pd.demo.process import command
from p2pd.preheat.token import PreheatToken
from tests.support.daemon_process import ForkedDaemon
from tests.support.registry_server import PATIENCE_S

JOBS = "/api/v1/preheats"


class Api:
    """A scheduler's admin port, as the command line asks it."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        flags = {"data": self.data, "listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
        self.daemon = ForkedDaemon(directory, command("scheduler", flags))
        self.at = self.daemon.wait_for_event("ready")["admin"]
        self.headers = {"Authorization": authorization((self.data / "admin-secret").read_text().splitlines()[0])}

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body)
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection(self.at, timeout=PATIENCE_S)) as connection:
            connection.request(method, path, content, {**self.headers, **more})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    made = Api(tmp_path_factory.mktemp("api"))
    yield made
    made.daemon.close()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "the body is no JSON"),
        (b"{", "the body is no JSON"),
        (b"[" * 100_000, "the body is no JSON"),
        ([], "the body is to be a JSON object"),
        ({}, "images: expected the names of 1 to 64 images"),
        ({"images": []}, "images: expected the names of 1 to 64 images"),
        ({"images": ["a"] * 65}, "images: expected the names of 1 to 64 images"),
        ({"images": "alpine"}, "images: expected the names of 1 to 64 images"),
        ({"images": ["../etc/passwd"]}, "images: upstream"),
        ({"images": ["a\nb"]}, "images: repository"),
        ({"images": ["a" * 5000]}, "images: image"),
        ({"images": ["a"], "to": "0"}, "to: '0' selects no hosts"),
        ({"images": ["a"], "to": [f"h{number}" for number in range(20_001)]}, "to: expected"),
        ({"images": ["a"], "to": ",".join(f"h{number}" for number in range(20_001))}, "to: 20001 hosts are more"),
        ({"images": ["a"], "rate": "fast"}, "rate: expected"),
        ({"images": ["a"], "rate": True}, "rate: expected"),
        ({"images": ["a"], "ttl": "400d"}, "ttl: expected 0 s to 365 days"),
        ({"images": ["a"], "ttl": 10**400}, "ttl: expected 0 s to 365 days"),
        ({"images": ["a"], "within": 0}, "within: expected 1 s to 30 days"),
        ({"images": ["a"], "at": "tomorrow"}, "at: expected a time with its zone"),
        ({"images": ["a"], "at": "2030-01-01T00:00:00"}, "at: expected a time with its zone"),
        ({"images": ["a"], "at": "9999-01-01T00:00:00Z"}, "at: it is more than a year ahead"),
        ({"images": ["a"], "window": "25:00-26:00"}, "window: expected hours"),
        ({"images": ["a"], "platforms": ["Windows 95"]}, "platforms: platform"),
        ({"images": ["a"], "credentials": {"auths": {"r.test": {"auth": "!"}}}}, "credentials: credentials are"),
        ({"images": ["a"], "colour": 1}, "'colour': there is no such member"),
    ],
)
def test_what_is_wrong_is_said(api: Api, body: Any, problem: str) -> None:
    status, answer = api.ask("POST", JOBS, body)
    assert (status, problem in answer["error"]) == (422, True), answer


def test_a_body_that_is_too_long_is_not_read(api: Api) -> None:
    status, answer = api.ask("POST", JOBS, b" " * (2 << 20) + b"{}")
    assert (status, "longer than" in answer["error"]) == (422, True)


def test_an_idempotency_key_has_one_preheat(api: Api) -> None:
    body = {"images": ["alpine"], "at": "2020-01-01T00:00:00Z", "to": "away"}
    status, first = api.ask("POST", JOBS, body, Idempotency_Key="k1")
    assert status == 201
    status, same = api.ask("POST", JOBS, body, Idempotency_Key="k1")
    assert (status, same["id"]) == (200, first["id"])
    while not (found := api.ask("GET", f"{JOBS}/{first['id']}")[1])["results"]:
        pass  # the hosts are not chosen before they can have connected
    assert found["results"][0]["state"] == "waiting"
    status, answer = api.ask("POST", JOBS, {**body, "images": ["busybox"]}, Idempotency_Key="k1")
    assert (status, "another preheat" in answer["error"]) == (422, True)
    status, cancelled = api.ask("POST", f"{JOBS}/{first['id']}/cancel")
    assert (status, cancelled["state"]) == (200, "cancelled")
    status, again = api.ask("POST", f"{JOBS}/{first['id']}/retry")
    assert (status, again["state"], again["results"][0]["attempt"]) == (200, "running", 2)
    api.ask("POST", f"{JOBS}/{first['id']}/cancel")


def test_the_token_opens_preheats_and_nothing_else(api: Api) -> None:
    token = PreheatToken(api.data / "scheduler").make()
    shown = {"Authorization": f"Bearer {token}"}
    assert api.ask("GET", JOBS, **shown)[0] == 200
    assert api.ask("GET", "/api/v1/openapi.json", **shown)[0] == 200
    preheats = SchedulerPreheats(Settings(data=api.data))
    doors = {path: preheats.admits(make_mocked_request("GET", path, shown)) for path in (JOBS, "/cache", "/reload")}
    assert doors == {JOBS: True, "/cache": False, "/reload": False}


def test_without_the_token_of_now_preheats_are_closed(api: Api) -> None:
    token = PreheatToken(api.data / "scheduler").make()
    assert api.ask("GET", JOBS, Authorization="Bearer wrong")[0] == 403
    assert api.ask("GET", JOBS, Authorization="")[0] == 403
    newer = PreheatToken(api.data / "scheduler").make()
    assert api.ask("GET", JOBS, Authorization=f"Bearer {token}")[0] == 403
    assert (api.data / "scheduler" / "preheat-token").stat().st_mode & 0o777 == 0o600
    assert newer != token


def test_a_notification_without_token_or_signature_is_refused(api: Api) -> None:
    PreheatToken(api.data / "scheduler").make()
    for headers in ({}, {"X-Hub-Signature-256": "sha256="}, {"X-Hub-Signature-256": f"sha256={'0' * 64}"}):
        assert api.ask("POST", "/registry/notifications", {"events": []}, Authorization="", **headers)[0] == 403


def test_no_answer_has_the_credentials_of_a_preheat(api: Api) -> None:
    """Nor does an error quote them."""
    body = {"images": ["alpine"], "to": "away", "credentials": {"auths": {"r.test": {"auth": "dTpzM2NyZXQ="}}}}
    _, made = api.ask("POST", JOBS, body)
    answers = [made, api.ask("GET", f"{JOBS}/{made['id']}"), api.ask("GET", JOBS)]
    answers.append(api.ask("POST", JOBS, {**body, "credentials": {"auths": {"r.test": {"auth": "dTpzM2NyZXQ"}}}}))
    assert "dTpzM2NyZXQ" not in json.dumps(answers)
    api.ask("POST", f"{JOBS}/{made['id']}/cancel")
