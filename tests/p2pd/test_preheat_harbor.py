"""Harbor's drivers for Dragonfly and Kraken, and what registries tell of pushes: paths, bodies, states and errors."""

from __future__ import annotations

import hmac
import json
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from p2pd.config.preheat_rules import parse_preheat_rules
from p2pd.preheat.harbor import harbor_routes, image_of
from p2pd.preheat.notifications import SIGNATURE, Notifications, Pushed, pushed_in
from p2pd.preheat.request import RequestError
from p2pd.preheat.rules import PreheatRules
from p2pd.preheat.token import PreheatToken
from peer.tasks import BackgroundTasks
from scheduler.core.preheat_job import JobState, Target, TargetState
from scheduler.core.preheat_record import JobRecord, JobView
from tests.support.node import asynchronous, until

URL = "https://harbor.corp/v2/team/app/manifests/v1"
ARGS: dict[str, object] = {"type": "image", "url": URL, "headers": {"Authorization": "Bearer t0ken"}}
JOB = {"type": "preheat", "args": ARGS}


class Jobs:
    """What `scheduler.shell.preheating` is for its callers, in memory."""

    def __init__(self) -> None:
        self.views: dict[int, JobView] = {}
        self.keys: dict[str, str | None] = {}
        self.credentials: list[str] = []

    async def add(self, record: JobRecord, *, key: str | None = None, credential: str = "") -> JobView:
        known = next((view for view in self.views.values() if key and self.keys[view.record.id] == key), None)
        if known is not None:
            return known
        kept = replace(record, number=len(self.views) + 1)
        self.views[kept.number] = JobView(kept, ())
        self.keys[kept.id] = key
        self.credentials.append(credential)
        return self.views[kept.number]

    async def job(self, name: str | int) -> JobView | None:
        return next((view for number, view in self.views.items() if name in (number, view.record.id)), None)

    def end(self, number: int, state: JobState, *targets: Target) -> None:
        record = replace(self.views[number].record, state=state, finished=time.time())
        self.views[number] = JobView(record, targets)

    @property
    def images(self) -> list[tuple[str, tuple[str, ...], bool]]:
        records = [view.record for view in self.views.values()]
        return [(each.order.images[0], each.to, each.order.only_where_used) for each in records]


class Server:
    """The routes, with `jobs` behind them."""

    def __init__(self, directory: Path, tasks: BackgroundTasks) -> None:
        self.jobs = Jobs()
        self.token = PreheatToken(directory)
        service: Any = lambda: self.jobs  # noqa: E731
        self.rules = PreheatRules((), service)
        self.notifications = Notifications(service, self.token, lambda: tasks, self.rules, debounce_s=0.01)
        app = web.Application()
        app.add_routes([*harbor_routes(service), *self.notifications.routes()])
        self._server = TestServer(app)

    async def __aenter__(self) -> Server:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            ClientSession() as session,
            session.request(method, self._server.make_url(path), data=content, headers=named) as answer,
        ):
            return answer.status, await answer.json()


@asynchronous
async def test_the_driver_of_harbor_2_12(tmp_path: Path) -> None:
    async with BackgroundTasks() as tasks, Server(tmp_path, tasks) as server:
        assert (await server.ask("GET", "/healthy"))[0] == 200
        status, job = await server.ask("POST", "/oapi/v1/jobs", JOB)
        assert (status, job["id"], job["state"]) == (200, 1, "PENDING")
        for name in ("created_at", "updated_at"):
            assert datetime.fromisoformat(job[name]).tzinfo is not None
        assert server.jobs.images == [("harbor.corp/team/app:v1", ("1",), False)]
        assert json.loads(server.jobs.credentials[0]) == {"auths": {"harbor.corp": {"registrytoken": "t0ken"}}}
        assert (await server.ask("GET", "/oapi/v1/jobs/1"))[1]["result"] == {"job_states": []}
        server.jobs.end(
            1,
            JobState.PARTLY,
            Target("a", state=TargetState.DONE),
            Target("b", state=TargetState.FAILED, reason="no room"),
        )
        status, job = await server.ask("GET", "/oapi/v1/jobs/1")
        (told,) = job["result"]["job_states"]
        assert (status, job["state"], told["error"]) == (200, "SUCCESS", "")
        (result,) = told["results"]
        assert result["success_tasks"] == [{"url": URL, "hostname": "a", "ip": ""}]
        assert result["failure_tasks"] == [{"url": URL, "hostname": "b", "ip": "", "description": "no room"}]
        server.jobs.end(1, JobState.FAILED, Target("b", state=TargetState.FAILED, reason="404"))
        job = (await server.ask("GET", "/oapi/v1/jobs/1"))[1]
        assert (job["state"], job["result"]["job_states"][0]["error"]) == ("FAILURE", "b: 404")


@asynchronous
async def test_each_scope(tmp_path: Path) -> None:
    async with BackgroundTasks() as tasks, Server(tmp_path, tasks) as server:
        for scope in ("", "single_seed_peer", "all_seed_peers", "all_peers"):
            args = {"type": "image", "url": URL, "scope": scope}
            assert (await server.ask("POST", "/oapi/v1/jobs", {"type": "preheat", "args": args}))[0] == 200
        assert [to for _, (to,), _ in server.jobs.images] == ["1", "1", "1/site", "all"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        [],
        {},
        {"type": "preheat", "args": []},
        {"type": "sync_peers", "args": ARGS},
        {"type": "preheat", "args": {"type": "file", "url": URL}},
        {"type": "preheat", "args": {"type": "image", "url": "ftp://x/v2/a/manifests/b"}},
        {"type": "preheat", "args": {"type": "image", "url": "https://u:p@x.corp/v2/a/manifests/b"}},
        {"type": "preheat", "args": {"type": "image", "url": "https://x.corp/v2/../../a/manifests/b"}},
        {"type": "preheat", "args": {"type": "image", "url": URL, "scope": "everywhere"}},
        {"type": "preheat", "args": {"type": "image", "url": URL, "headers": {"Authorization": "x"}}},
        {"type": "preheat", "args": {"type": "image", "url": URL, "headers": {"Authorization": "Bearer a\r\nb: c"}}},
        {"type": "preheat", "args": {"type": "image", "url": URL, "headers": []}},
        {"type": "preheat", "args": {"type": "image", "url": URL, "headers": {"Authorization": ["Basic x"]}}},
        {"type": "preheat", "args": {"type": "image", "url": URL, "scope": ["all_peers"]}},
        {"type": "preheat", "args": {"type": "image", "url": URL, "scope": {}}},
        {"type": ["preheat"], "args": ARGS},
        {"type": "preheat", "args": {"type": "image", "url": {"scheme": "https"}}},
        b"[" * 100_000,
        b'"\\ud800"',
        b" " * (256 << 10) + b"{}",
    ],
)
@asynchronous
async def test_a_job_that_is_wrong(tmp_path: Path, body: object) -> None:
    async with BackgroundTasks() as tasks, Server(tmp_path, tasks) as server:
        status, answer = await server.ask("POST", "/oapi/v1/jobs", body)
        assert (status, bool(answer["errors"])) == (422, True)
        assert not server.jobs.views


@asynchronous
async def test_jobs_that_are_not_there(tmp_path: Path) -> None:
    async with BackgroundTasks() as tasks, Server(tmp_path, tasks) as server:
        odd = ("x", "%ff", "%ed%a0%80", "%00", "a" * 4000, "%C2%B2")
        for path in ("/oapi/v1/jobs/7", f"/oapi/v1/jobs/{'9' * 40}", *(f"/oapi/v1/jobs/{each}" for each in odd)):
            assert (await server.ask("GET", path))[0] == 404
        for path in [f"/preheats/{each}" for each in odd]:
            assert (await server.ask("GET", path))[0] == 404


@asynchronous
async def test_the_driver_of_harbor_before_2_12(tmp_path: Path) -> None:
    async with BackgroundTasks() as tasks, Server(tmp_path, tasks) as server:
        assert (await server.ask("GET", "/_ping"))[0] == 200
        body = {"type": "image", "url": URL, "headers": {}, "image": "team/app", "tag": "v1"}
        status, answer = await server.ask("POST", "/preheats", body)
        name = answer["ID"]
        assert status == 200
        assert (await server.ask("GET", f"/preheats/{name}"))[1]["Status"] == "WAITING"
        server.jobs.end(1, JobState.SUCCEEDED, Target("a", state=TargetState.DONE))
        ended = (await server.ask("GET", f"/preheats/{name}"))[1]
        assert (ended["ID"], ended["Status"], ended["errorMsg"]) == (name, "SUCCESS", "")


def event(**target: object) -> dict[str, object]:
    return {
        "action": "push",
        "target": {"repository": "team/app", "url": "http://reg.test:5000/v2/team/app/manifests/sha256:0", **target},
    }


@pytest.mark.parametrize(
    ("body", "images"),
    [
        ({"events": [event(tag="v1")]}, ["reg.test:5000/team/app:v1"]),
        ({"events": [event()]}, []),
        ({"events": [{**event(tag="v1"), "action": "pull"}]}, []),
        ({"events": [event(tag="v1", url="")]}, []),
        ({"events": [{**event(tag="v1", url=None), "request": {"host": "reg.test"}}]}, ["reg.test/team/app:v1"]),
        ({"events": [event(tag="../x"), event(tag="v1", repository="UP"), 7, None, {"target": []}]}, []),
        (
            {"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"resource_url": "harbor.corp/team/app:v1"}]}},
            ["harbor.corp/team/app:v1"],
        ),
        (
            {
                "specversion": "1.0",
                "type": "harbor.artifact.pushed",
                "data": {"resources": [{"resource_url": "harbor.corp/team/app:v1"}]},
            },
            ["harbor.corp/team/app:v1"],
        ),
        ({"type": "DELETE_ARTIFACT", "event_data": {"resources": [{"resource_url": "harbor.corp/a/b:c"}]}}, []),
        ({"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"resource_url": f"h.corp/a@sha256:{'0' * 64}"}]}}, []),
    ],
)
def test_the_tags_of_events(body: object, images: list[str]) -> None:
    assert [each.image for each in pushed_in(body, "")] == images


def test_the_upstream_that_the_operator_names() -> None:
    assert list(pushed_in({"events": [event(tag="v1")]}, "docker.io")) == [Pushed("docker.io/team/app:v1")]
    zot = {"specversion": "1.0", "type": "zotregistry.image.updated", "data": {"name": "team/app", "reference": "v1"}}
    assert list(pushed_in(zot, "zot.test")) == [Pushed("zot.test/team/app:v1")]
    assert list(pushed_in(zot, "")) == []


@pytest.mark.parametrize("body", [None, [], 7, "x", {}, {"events": {}}, {"type": 7}, {"type": []}, {"type": {}}])
def test_what_has_no_events(body: object) -> None:
    with pytest.raises(RequestError):
        list(pushed_in(body, ""))


@asynchronous
async def test_pushes_are_preheated_once_where_the_repository_is_in_use(tmp_path: Path) -> None:
    async with BackgroundTasks() as tasks, Server(tmp_path, tasks) as server:
        assert (await server.ask("POST", "/registry/notifications", {"events": [event(tag="v1")] * 3}))[0] == 200
        await until(lambda: bool(server.jobs.views))
        assert server.jobs.images == [("reg.test:5000/team/app:v1", ("all",), True)]
        kraken = {"Events": [{"Action": "push", "Target": {"Repository": "team/app", "Url": URL, "Tag": "v2"}}]}
        assert (await server.ask("POST", "/registry/notifications", kraken))[0] == 200
        await until(lambda: len(server.jobs.views) == 2)
        assert server.jobs.images[1] == ("harbor.corp/team/app:v2", ("1/site",), False)


@asynchronous
async def test_a_push_is_preheated_again_but_not_what_is_told_again(tmp_path: Path) -> None:
    async with BackgroundTasks() as tasks, Server(tmp_path, tasks) as server:
        for digest, at, jobs in (("a", 1, 1), ("a", 1, 1), ("b", 1, 2), ("a", 2, 3), ("", 2, 4), ("", 2, 5)):
            told = {**event(tag="v1", digest=digest), "timestamp": at}
            assert (await server.ask("POST", "/registry/notifications", {"events": [told]}))[0] == 200
            await until(lambda: not server.notifications._waiting)
            assert len(server.jobs.views) == jobs


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ({"occur_at": 1}, {"occur_at": 1}, True),
        ({"occur_at": 1}, {"occur_at": 2}, False),
        ({"time": "1"}, {"time": "1"}, True),
        ({}, {}, False),
    ],
)
def test_webhooks_of_one_push(one: dict[str, object], other: dict[str, object], are_one: bool) -> None:
    data = {"resources": [{"resource_url": "harbor.corp/team/app:v1", "digest": "sha256:0"}]}
    keys = [
        pushed.key
        for at in (one, other)
        for pushed in pushed_in({"type": "PUSH_ARTIFACT", "event_data": data, **at}, "")
    ]
    assert (keys[0] is not None and keys[0] == keys[1]) == are_one


@asynchronous
async def test_a_push_that_a_rule_matches_is_preheated_as_it_says_too(tmp_path: Path) -> None:
    async with BackgroundTasks() as tasks, Server(tmp_path, tasks) as server:
        server.rules.replace(parse_preheat_rules(["reg.test:5000/team/*:v*;to=site=berlin", "other.test/**:*"]))
        assert (await server.ask("POST", "/registry/notifications", {"events": [event(tag="v1")]}))[0] == 200
        await until(lambda: len(server.jobs.views) == 2)
        assert server.jobs.images[1] == ("reg.test:5000/team/app:v1", ("site=berlin",), False)


@asynchronous
async def test_a_signature_is_that_of_the_body(tmp_path: Path) -> None:
    async with BackgroundTasks() as tasks, Server(tmp_path, tasks) as server:
        body = json.dumps({"events": [event(tag="v1")]}).encode()
        for token in ("none was made", server.token.make()):
            right = "sha256=" + hmac.new(token.encode(), body, "sha256").hexdigest()
            status = (await server.ask("POST", "/registry/notifications", body, **{SIGNATURE: right}))[0]
            assert status == (200 if token == server.token.read() else 403)
        assert (await server.ask("POST", "/registry/notifications", body + b" ", **{SIGNATURE: right}))[0] == 403
        await until(lambda: bool(server.jobs.views))


def test_the_image_of_a_url() -> None:
    assert image_of("https://harbor.corp:8443/v2/a/b/c/manifests/v1") == "harbor.corp:8443/a/b/c:v1"
    assert image_of(f"https://harbor.corp/v2/a/manifests/sha256:{'0' * 64}") == f"harbor.corp/a@sha256:{'0' * 64}"
    assert image_of("http://harbor/v2/a/b/manifests/v1") == "harbor:443/a/b:v1"
