"""What several schedulers tell each other of hosts and pulls: together they show what one would, and it is bounded."""

from __future__ import annotations

import asyncio
import json
import math
import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from msgspec import structs

from scheduler.core.events import Connected
from scheduler.core.exchanges import BlobFacts, Exchanges, PullFacts, merged
from scheduler.core.overview import Others, Overview
from scheduler.core.pulls import DAY_S, GAP_S, MAX_PULLS
from scheduler.core.roster import HostFacts
from scheduler.core.roster import merged as merged_hosts
from scheduler.protocol.rendezvous import owner_of
from scheduler.shared.columns import MAX_NUMBER, MAX_TEXT
from scheduler.shared.redis_clients import RedisPlace
from scheduler.shared.summaries import (
    MAX_EXCHANGES_BYTES,
    MAX_PROCESSES,
    OWN_NUMBERS,
    ROSTER_S,
    RedisSummaries,
    decode_exchanges,
    decode_roster,
    encode_exchanges,
    encode_roster,
    of_processes,
)
from tests.scheduler.playbook import hello
from tests.support.crowd import Crowd
from tests.support.redis_server import RedisServer

NAMES: Final = ("00a", "00b", "00c")
HOST: Final = HostFacts("a", "a:1", "east", "z", "r", "1", 5.0, True, 3, 1, 100, 0, "", 0.0)
PULL: Final = PullFacts(1, "docker.io", "library/app", 10.0, None, 2, 90, 4, 3, 1, 80, 30, 20, 5, 1.5, 20, 2.0)
BLOB: Final = BlobFacts("ab", 1, 90, 2, 1, 50, 60, 1, 0)
TOLD: Final = Exchanges((PULL, replace(PULL, number=2, ended_at=15.0)), (BLOB,), 1, 5.0, -math.inf)
NOW: Final = 100.0


class Cluster:
    """Crowds of one cluster at schedulers; each blob is at one of them, and each host connected to all."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.at = {name: Crowd() for name in names}

    def connect(self, count: int) -> None:
        for each in self.at.values():
            each.connect(count, sites=2, zones=2)

    def of(self, digest: bytes) -> Crowd:
        return self.at[owner_of(digest, list(self.at))]

    def pass_time(self, seconds: float) -> None:
        for each in self.at.values():
            each.now += seconds

    def overview(self, name: str) -> Overview:
        """As the scheduler of this name shows it, from what the others have told it."""
        crowd, rosters, told = self.at[name], [], {}
        for other, each in self.at.items():
            if other != name:
                rosters.append(decode_roster(encode_roster(each.scheduler.hosts(each.now))))
                told[f"{other}:1"] = 0.0, encode_exchanges(each.scheduler.exchanges(each.now), each.now)
        exchanges = of_processes(told, f"{name}:1", list(self.at), crowd.now)
        hosts = {host.id: host for host in merged_hosts(rosters)}
        others = Others(hosts, tuple(exchanges), len(self.at) - 1)
        return crowd.scheduler.overview(crowd.now, frozenset(), others)


def pulled(names: tuple[str, ...]) -> Cluster:
    """Six hosts pull an image of nine blobs; four of them have all of it, and two have broken off."""
    made = Cluster(names)
    made.connect(6)
    blobs = [bytes([number]) * 32 for number in range(9)]
    for blob in blobs:
        made.of(blob).join(range(6), digest=blob)
    made.pass_time(2.0)
    for each in made.at.values():
        each.fetch(10**6)
    for blob in blobs:
        made.of(blob).finish(range(4), digest=blob)
    made.pass_time(1.0)
    for each in made.at.values():
        each.leave(5)
    return made


@pytest.mark.parametrize("names", [NAMES, NAMES[:2]], ids=["three", "two"])
def test_several_show_what_one_would(names: tuple[str, ...]) -> None:
    one = pulled(("0",)).overview("0")
    assert one.pulling == 1
    cluster = pulled(names)
    assert len({id(cluster.of(bytes([number]) * 32)) for number in range(9)}) == len(names), (
        "each has some of the blobs"
    )
    for name in names:
        found = cluster.overview(name)
        assert found.schedulers == len(names)
        rate = found.rate_bytes_per_s
        assert rate == pytest.approx(one.rate_bytes_per_s, rel=0.01)
        assert [replace(each, rate_bytes_per_s=0) for each in found.places] == [
            replace(each, rate_bytes_per_s=0) for each in one.places
        ]
        assert (found.hosts, found.pulling, found.versions) == (one.hosts, one.pulling, one.versions)
        assert (found.blobs_in_all, len(found.blobs)) == (one.blobs_in_all, len(one.blobs))
        ([pull], [expected]) = found.pulls, one.pulls
        assert pull.saved_s == pytest.approx(expected.saved_s, abs=0.2)
        assert {blob.pull for blob in found.blobs} == {pull.number}
        assert replace(pull, number=0, saved_s=0, origin_s=0) == replace(expected, number=0, saved_s=0, origin_s=0)


def test_a_host_that_one_scheduler_alone_knows_counts_and_its_problems_are_told() -> None:
    crowd = Crowd()
    crowd.connect(2, version="1")
    there = HOST._replace(missed_by=2, last_error="its disk is full")
    known = crowd.scheduler.overview(crowd.now, frozenset(), Others({"a": there}))
    assert (known.hosts, known.pulling, known.rate_bytes_per_s, known.troubles_in_all) == (3, 1, 100, 1)
    [trouble] = known.troubles
    assert trouble.problems == ("2 hosts could not reach it at a:1",)
    here = HOST._replace(id="host-0", version="1", last_error="its disk is full", error_age_s=3.0)
    [trouble] = crowd.scheduler.overview(crowd.now, frozenset(), Others({"host-0": here})).troubles
    assert (trouble.id, trouble.problems) == ("host-0", ("its disk is full",)), "what happened at another is told"


def test_pulls_of_a_repository_apart_are_two_and_a_day_is_kept() -> None:
    def told(number: int, began_at: float, ended_at: float | None, **more: Any) -> Exchanges:
        return replace(TOLD, pulls=(replace(PULL, number=number, began_at=began_at, ended_at=ended_at, **more),))

    now = DAY_S + 1000.0
    apart = merged([told(1, now - 500, now - 400), told(7, now - 400 + GAP_S + 1, None)], now)
    assert [(each.number, each.ended_at) for each in apart.pulls] == [(7, None), (1, now - 400)], "the newest first"
    together = merged([told(1, now - 500, now - 400), told(7, now - 400 + GAP_S, None, repository="library/b")], now)
    assert len(together.pulls) == 2, "another repository"
    (one,) = merged([told(9, now - 500, now - 400), told(7, now - 400 + GAP_S, now - 300, hosts=9)], now).pulls
    assert (one.number, one.began_at, one.ended_at, one.hosts) == (7, now - 500, now - 300, 9)
    assert merged([told(1, 0.0, now - DAY_S - 1), told(2, 0.0, now - DAY_S)], now).pulls[0].number == 2
    many = [told(number, float(number), number + 1.0, repository=str(number)) for number in range(MAX_PULLS + 9)]
    found = merged(many, 1000.0)
    assert (len(found.pulls), found.pulls_since) == (MAX_PULLS, 8.0), "since when all are told"


class TestWhatIsTold:
    def test_it_comes_as_it_went_by_another_clock(self) -> None:
        found = decode_exchanges("0b:1", encode_exchanges(TOLD, NOW), 3.0, 1000.0, lives=True)
        assert found is not None
        live, ended = found.pulls
        assert (live.began_at, live.ended_at) == (1000.0 - 3.0 - 90.0, None)
        assert (ended.began_at, ended.ended_at, found.began_at) == (907.0, 912.0, 902.0)
        assert {live.number, ended.number} == {found.blobs[0].pull, live.number + 1}
        assert OWN_NUMBERS < live.number < 2**53
        assert replace(live, number=1, began_at=10.0) == PULL

    def test_who_is_gone_has_ended_its_pulls_and_has_no_blobs(self) -> None:
        told = {"0b:old": (30.0, encode_exchanges(TOLD, NOW)), "0b:new": (1.0, encode_exchanges(TOLD, NOW))}
        for process, lives in (("0b:old", False), ("0b:new", True)):
            (found,) = of_processes({process: told[process]}, "0a:1", ["0b"], 1000.0)
            assert (found.pulls[0].ended_at is None) is bool(found.blobs) is bool(found.blobs_in_all) is lives
        assert len(of_processes(told, "0a:1", ["0b"], 1000.0)) == 2
        assert [bool(each.blobs) for each in of_processes(told, "0a:1", ["0b"], 1000.0)] == [False, True]
        assert not any(each.blobs for each in of_processes(told, "0a:1", [], 1000.0)), "off the list"
        assert len(of_processes(told, "0b:new", ["0b"], 1000.0)) == 1, "what it was before it was started again"

    def test_hosts_that_make_up_names_do_not_make_it_longer(self) -> None:
        random.seed(7)
        names = [random.randbytes(250).hex() for _ in range(MAX_PULLS)]
        pulls = [replace(PULL, number=n, repository=name, ended_at=50.0 - n / 10) for n, name in enumerate(names)]
        encoded = encode_exchanges(replace(TOLD, pulls=tuple(pulls)), NOW)
        assert len(encoded) <= MAX_EXCHANGES_BYTES
        found = decode_exchanges("0b:1", encoded, 0.0, NOW, lives=True)
        assert found is not None
        kept = len(found.pulls)
        assert 0 < kept < MAX_PULLS
        assert [each.repository for each in found.pulls] == names[:kept], "the newest"
        assert found.pulls_since == pytest.approx(50.0 - kept / 10), "since when all are told"

    def test_what_hosts_say_is_cut_and_spoils_nobodys_list(self) -> None:
        long = HOST._replace(id="b", last_error="x" * 9999, rate_bytes_per_s=2**70)
        [one, other] = decode_roster(encode_roster([HOST, long]))
        assert one == HOST
        assert (len(other.last_error), other.rate_bytes_per_s) == (MAX_TEXT, MAX_NUMBER)
        assert decode_roster(encode_roster([])) == []

    @pytest.mark.parametrize(
        "change",
        [
            lambda found: found.pop("id"),
            lambda found: found.update(id=["a", "b"]),
            lambda found: found.update(id=[1]),
            lambda found: found.update(id=["x" * (MAX_TEXT + 1)]),
            lambda found: found.update(swarms=[True]),
            lambda found: found.update(swarms=[10**30]),
            lambda found: found.update(connected_s=[math.inf]),
            lambda found: found.update(certified=[1]),
            lambda found: found.update(site={}),
        ],
    )
    def test_what_is_no_roster_has_no_hosts(self, change: Callable[[dict[str, Any]], None]) -> None:
        lines = zlib.decompress(encode_roster([HOST])).splitlines()
        found = dict(map(json.loads, lines))
        change(found)
        assert decode_roster(zlib.compress("\n".join(json.dumps(each) for each in found.items()).encode())) == []

    @pytest.mark.parametrize("stored", [b"", b"x", *map(zlib.compress, (b"{", b"[1]", b"[[],[]]", b'["id",[' * 9999))])
    def test_what_is_none_is_left_out(self, stored: bytes) -> None:
        assert decode_roster(stored) == []
        assert of_processes({"0b:1": (1.0, stored)}, "0a:1", ["0b"], NOW) == []


def test_a_hostile_host_is_in_the_lists_of_all() -> None:
    """Whatever Hello takes can be told."""
    crowd = Crowd()
    odd = structs.replace(hello("h" * 128, site="\U0001f600"), software="é\x7f")
    crowd.scheduler.handle(Connected(1, odd), crowd.now)
    [host] = decode_roster(encode_roster(crowd.scheduler.hosts(crowd.now)))
    assert (host.id, host.site, host.version) == (odd.host, odd.site, odd.software)


class TestInRedis:
    def test_it_is_kept_for_its_time(self, redis_place: RedisPlace, shared_redis: RedisServer) -> None:
        async def scenario() -> None:
            told = RedisSummaries(redis_place)
            await told.write("0a:1", b"hosts", b"\x00:pulls")
            rosters, found = await told.read(["0b", "0a", "0c"])
            assert rosters == [None, b"hosts", None]
            left_ms = shared_redis.client.pttl(redis_place.key("roster:0a"))
            assert 0 < left_ms <= ROSTER_S * 1000
            ((name, (age_s, encoded)),) = found.items()
            assert (name, encoded) == ("0a:1", b"\x00:pulls")
            assert 0 <= age_s < 60
            shared_redis.client.zincrby(redis_place.key("exchanges-at"), -DAY_S - 100, "0a:1")
            await told.write("0b:1", b"", b"others")
            assert list((await told.read([]))[1]) == ["0b:1"], "a day is over"
            shared_redis.client.hset(redis_place.key("exchanges"), "x", "none of ours")
            assert list((await told.read([]))[1]) == ["0b:1"]
            await told.close()

        asyncio.run(scenario())

    def test_a_scheduler_that_starts_again_and_again_does_not_fill_it(
        self, redis_place: RedisPlace, shared_redis: RedisServer
    ) -> None:
        async def scenario() -> None:
            told = RedisSummaries(redis_place)
            for number in range(MAX_PROCESSES + 2):
                await told.write(f"0a:{number}", b"", b"pulls")
                at = {f"0a:{number}": 1000 + number}
                shared_redis.client.zadd(redis_place.key("exchanges-at"), at, gt=False, xx=True)
            _, found = await told.read([])
            assert len(found) <= MAX_PROCESSES
            assert f"0a:{MAX_PROCESSES + 1}" in found
            await told.close()

        asyncio.run(scenario())
