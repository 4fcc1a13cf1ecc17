"""What is shared, in a Redis Cluster and over TLS: the same calls, by another URL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.core.quarantine import QuarantineFacts
from scheduler.shared.errors import SharedStateError
from scheduler.shared.live import Live
from scheduler.shared.live_list import Membership
from scheduler.shared.quarantines import RedisQuarantines
from scheduler.shared.redis_clients import RedisPlace, facts_of
from scheduler.shared.redis_ledger import RedisLedger
from scheduler.shared.redis_live import RedisLiveStore
from scheduler.shared.redis_url import parse_redis_url
from scheduler.shared.summaries import RedisSummaries
from scheduler.trust.errors import TrustError
from scheduler.trust.token import new_token
from tests.support.authority import make_authority
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, install
from tests.support.registry_server import PATIENCE_S

TOKEN = new_token(b"i" * 5 + b"s" * 20, b"f" * 32)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisPlace]:
    """A cluster of one node, which has all slots: whoever uses keys of several slots at once is refused."""
    install()
    bus = free_port()
    server = RedisServer(tmp_path / "node", "--cluster-enabled", "yes", "--cluster-port", str(bus))
    server.start()
    server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    deadline = time.monotonic() + PATIENCE_S
    while b"cluster_state:ok" not in server.client.execute_command("CLUSTER", "INFO"):
        assert time.monotonic() < deadline
    yield RedisPlace(parse_redis_url(f"redis+cluster://127.0.0.1:{server.port}"))
    server.kill()


@pytest.fixture
def over_tls(tmp_path: Path) -> Iterator[RedisPlace]:
    install()
    authority = make_authority(tmp_path)
    port = free_port()
    files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
    options = [word for name, file in files.items() for word in (f"--tls-{name}-file", str(tmp_path / file))]
    server = RedisServer(
        tmp_path / "redis", "--tls-port", str(port), "--tls-auth-clients", "no", "--requirepass", "x", *options
    )
    server.start()
    (password := tmp_path / "password").write_text("x\n")
    yield RedisPlace(parse_redis_url(f"rediss://127.0.0.1:{port}"), "other", password, authority.ca_file)
    server.kill()


def works(place: RedisPlace) -> None:
    """All that is shared is put there and read."""
    ledger = RedisLedger(place)
    ledger.belongs_to("cluster")
    ledger.add_token(TOKEN, "note", None, 1, 1.0)
    ledger.admit(TOKEN, "a", b"key", "1", 100.0, 2.0)
    ledger.revoke_host("b", 3.0)
    assert [each.uses_left for each in ledger.tokens()] == [0]
    assert ledger.host_ids() == {"a"}
    assert ledger.revoked(4.0) == {"b"}
    ledger.close()
    assert facts_of(place)["aof_enabled"] == "0"

    async def scenario() -> None:
        store, quarantines, summaries = RedisLiveStore(place), RedisQuarantines(place), RedisSummaries(place)
        live = Live(Membership("https://a:1"), store, lambda _, __: None)
        await live.beat()
        await live.beat()
        assert (live.known.epoch, live.not_ready()) == (1, [])
        await store.changed(5.0)
        assert len(await quarantines.share([QuarantineFacts("liar", "", "it lied", 60.0)], 0.0)) == 1
        await summaries.write("a:1", b"hosts", b"pulls")
        rosters, exchanges = await summaries.read(["a", "b"])
        assert (rosters, exchanges["a:1"][1]) == ([b"hosts", None], b"pulls")
        for each in (store, quarantines, summaries):
            await each.close()

    asyncio.run(scenario())


def test_a_redis_cluster(cluster: RedisPlace) -> None:
    works(cluster)


def test_tls_with_a_password_in_a_file(over_tls: RedisPlace) -> None:
    works(over_tls)


@pytest.mark.parametrize("wrong", ["ca", "password"])
def test_what_is_wrong_with_tls_is_said(over_tls: RedisPlace, tmp_path: Path, wrong: str) -> None:
    (other := tmp_path / "other").write_text("y")
    ca, password = (None, over_tls.password_file) if wrong == "ca" else (over_tls.ca, other)
    place = RedisPlace(over_tls.at, password_file=password, ca=ca)
    failing: list[Callable[[], object]] = [lambda: facts_of(place), RedisLedger(place).version]
    for call in failing:
        with pytest.raises((SharedStateError, TrustError), match=r"rediss://127\.0\.0\.1:[0-9]+ cannot be used"):
            call()


def test_a_password_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="redis_password_file"):
        RedisLedger(RedisPlace(parse_redis_url("redis://127.0.0.1"), password_file=tmp_path / "none"))
