"""Several schedulers as processes, with one real Redis: one list, one ledger, and words while Redis is gone."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from p2pd.config.changes import shown
from p2pd.config.sources import load
from p2pd.config.values import ConfigError
from p2pd.daemon.several import url_of
from p2pd.demo.process import command, output_of
from scheduler.protocol.joining import JOIN_PATH
from scheduler.shared.redis_clients import RedisPlace
from scheduler.shared.redis_ledger import RedisLedger
from scheduler.shared.redis_url import parse_redis_url
from scheduler.shell.admission import Admission
from scheduler.trust.authority import Authority
from scheduler.trust.certificates import new_key, request_certificate
from tests.support.daemon_process import Daemon, assert_fails
from tests.support.ports import refusing
from tests.support.redis_server import RedisServer, install
from tests.support.registry_server import PATIENCE_S

NO_FILE = Path("/nonexistent/p2pd.toml")


@pytest.fixture
def ca(tmp_path: Path) -> dict[str, Path]:
    """The CA that all schedulers issue with: that of one that ran before."""
    Authority.open(tmp_path / "first", time.time()).close()
    return {"ca_cert": tmp_path / "first/authority/ca.crt", "ca_key": tmp_path / "first/authority/ca.key"}


@contextmanager
def running(tmp_path: Path, name: str, **options: object) -> Iterator[Daemon]:
    flags = {"data": tmp_path / name, "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **options}
    daemon = Daemon(tmp_path, command("scheduler", flags))
    try:
        daemon.wait_for("READY=1")
        yield daemon
    finally:
        daemon.close()


def metrics(daemon: Daemon) -> str:
    with daemon.get_admin("/metrics") as response:
        return response.read().decode()


def refused_preheat(daemon: Daemon) -> tuple[int, str]:
    """The status and the text that an order for a preheat is answered with."""
    connection = http.client.HTTPConnection(*daemon.address("admin"), timeout=PATIENCE_S)
    (secret, *_) = (Path(flag_of(daemon, "data")) / "admin-secret").read_text().splitlines()
    body = json.dumps({"images": ["docker.io/library/alpine:3"]})
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    with closing(connection):
        connection.request("POST", "/api/v1/preheats", body, headers)
        with connection.getresponse() as response:
            return response.status, response.read().decode()


def flag_of(daemon: Daemon, name: str) -> str:
    assert isinstance(daemon.process.args, list)
    (found,) = [str(each) for each in daemon.process.args if str(each).startswith(f"--{name}=")]
    return found.partition("=")[2]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lists(daemon: Daemon) -> list[set[str]]:
    return [set(each["schedulers"]) for each in daemon.events if each.get("event") == "live list"]


@pytest.fixture
def with_password(tmp_path: Path) -> Iterator[RedisServer]:
    install()
    server = RedisServer(tmp_path / "redis", "--appendonly", "yes", "--requirepass", "a-password")
    server.start()
    yield server
    server.kill()


def test_two_of_them_are_one(tmp_path: Path, with_password: RedisServer, ca: dict[str, Path]) -> None:
    (password := tmp_path / "password").write_text("a-password\n")
    redis = {"redis": with_password.url, "redis_password_file": password}
    with running(tmp_path, "a", **redis, **ca) as a, running(tmp_path, "b", **redis, **ca) as b:
        urls = {f"http://{each.wait_for_event('ready')['listen']}" for each in (a, b)}
        until(lambda: lists(a)[-1:] == lists(b)[-1:] == [urls])
        where = [f"--redis={with_password.url}", f"--redis-password-file={password}"]
        authority = [f"--ca-cert={ca['ca_cert']}", f"--ca-key={ca['ca_key']}"]
        token = output_of("token", "create", f"--data={tmp_path / 'a'}", *where, *authority)
        (seen,) = json.loads(output_of("token", "ls", "--json", f"--data={tmp_path / 'b'}", *where, *authority))
        assert seen["id"] == token.split("_")[1]
        assert_fails(
            command("scheduler", {"data": tmp_path / "c", "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **redis}),
            ".*another CA.*give all schedulers the same ca_cert and ca_key.*",
        )
        with_password.freeze()  # whatever waits for it must not be the event loop
        until(lambda: a.admin_json("/readyz")[0] == 503)
        assert "redis is unreachable since" in a.admin_json("/readyz")[1]["reasons"][0]
        assert refused_preheat(a)[0] == 503
        assert "redis is unreachable since" in refused_preheat(a)[1]
        until(lambda: "p2pd_redis_reached 0.0" in metrics(a))
        with_password.thaw()
        until(lambda: a.admin_json("/readyz")[0] == b.admin_json("/readyz")[0] == 200)
        told = [each for each in a.events if "nothing new is promised" in str(each.get("event"))]
        assert len(told) == 1, "it is told once"
        assert "a-password" not in json.dumps(a.events)
        b.process.terminate()
        until(lambda: lists(a)[-1] == urls - {f"http://{b.wait_for_event('ready')['listen']}"})


def test_none_starts_without_redis_for_it_would_not_know_who_is_revoked(tmp_path: Path, ca: dict[str, Path]) -> None:
    with refusing() as port:
        flags = {"data": tmp_path / "a", "listen": "127.0.0.1:0", "redis": f"redis://127.0.0.1:{port}", **ca}
        assert_fails(
            command("scheduler", flags), f"p2pd: redis at redis://127.0.0.1:{port} cannot be used: .*refused.*"
        )


def test_who_joins_while_redis_is_gone_is_told_to_come_again(tmp_path: Path, own_redis: RedisServer) -> None:
    place = RedisPlace(parse_redis_url(own_redis.url))
    authority = Authority.open(tmp_path / "a", time.time(), open_ledger=lambda: RedisLedger(place, try_again_s=0.0))
    token = authority.create_token(note="", ttl_s=None, uses=None, now=time.time()).text
    admission = Admission(authority, None, authority.ledger)
    body = json.dumps({"token": token, "host": "a", "request": request_certificate(new_key()).decode()}).encode()
    own_redis.kill()
    assert admission.answer(None, "POST", JOIN_PATH, body).status == 503
    own_redis.start()
    assert admission.answer(None, "POST", JOIN_PATH, body).status == 200
    assert authority.ledger.host_ids() == {"a"}
    authority.close()


def test_redis_is_loaded_for_nobody_else() -> None:
    code = "import sys, p2pd.daemon.scheduler, p2pd.daemon.node, p2pd.cli.app; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_where_hosts_reach_it_must_be_known() -> None:
    flags = {"listen": "0.0.0.0:65003", "redis": "redis://a"}
    everywhere = load(flags, {}, default_file=NO_FILE, authenticated=["listen"])
    with pytest.raises(ConfigError, match="set advertise"):
        url_of(everywhere, everywhere.listen, tls=True)
    advertised = load({**flags, "advertise": "10.0.0.7:0"}, {}, default_file=NO_FILE, authenticated=["listen"])
    assert url_of(advertised, advertised.listen, tls=True) == "https://10.0.0.7:65003"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("redis://a", "redis://a:6379"),
        ("rediss://user:p%40ss@a.example:6380/3", "rediss://a.example:6380/3"),
        ("redis://[fd00::1]:6379", "redis://[fd00::1]:6379"),
        ("redis+sentinel://:secret@a,b:26380/service", "redis+sentinel://a:26379,b:26380/service"),
        ("rediss+sentinel://a/service/2", "rediss+sentinel://a:26379/service/2"),
        ("redis+cluster://:secret@a:1,b:2", "redis+cluster://a:1,b:2"),
    ],
)
def test_where_redis_is(text: str, where: str) -> None:
    settings = load({"redis": text}, {}, default_file=NO_FILE)
    assert shown("redis", settings.redis) == where
    for shown_text in (repr(settings), repr(settings.redis), str(settings.redis)):
        assert not [each for each in ("secret", "p%40ss", "p@ss") if each in shown_text]


@pytest.mark.parametrize(
    "text",
    ["http://a", "redis://", "redis://a,b", "redis://a/x", "redis://a/1/2", "redis://a:0", "redis://a:70000",
     "redis+sentinel://a", "redis+sentinel://a/ /", "redis+cluster://a/1", "redis+x://a", "redis://:hunter2@a b"],
)  # fmt: skip
def test_what_is_no_redis(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"redis": text}, {}, default_file=NO_FILE)
    assert "hunter2" not in str(caught.value)


def test_a_password_has_one_place() -> None:
    with pytest.raises(ConfigError, match="give redis too"):
        load({"redis_password_file": "/x"}, {}, default_file=NO_FILE)
    with pytest.raises(ConfigError, match="a password in its URL already"):
        load({"redis": "redis://:p@a", "redis_password_file": "/x"}, {}, default_file=NO_FILE)
