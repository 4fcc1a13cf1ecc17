"""A tag whose origin is gone, at several schedulers: all hosts' words decide, whichever scheduler heard them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from typing import Final, Protocol

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
from msgspec import structs

from peer.tasks import BackgroundTasks
from scheduler.core.events import LiveListChanged, TagAsked, TagTold, ToldWord
from scheduler.core.tags import LOOKUPS, LOOKUPS_PER_HOST, MAX_TOLD, SHARE, VOTER_BYTES
from scheduler.protocol.from_host import TagAnswer
from scheduler.protocol.to_host import SchedulerAt, TagQuery, Welcome
from scheduler.shared.redis_clients import RedisPlace
from scheduler.shared.tags import MAX_BYTES, MAX_ENTRIES, RedisTags, SharedTag, decode, encode
from tests.scheduler.messages_for_pull import D
from tests.scheduler.playbook import SETTINGS, Passes, Playbook, hello
from tests.scheduler.test_conversations_on_tags import ANSWER, LIE, LOOKUP, NOTHING, QUERY, RESULT, TAG, UNKNOWN
from tests.support.node import until
from tests.support.redis_server import RedisServer

NAMES: Final = ("0a", "0b", "0c")
TELL_S: Final = SETTINGS.tag_tell_s
ASKED: Final = TagAsked("0b", *TAG, "somebody")
WORD: Final = ToldWord(b"v" * VOTER_BYTES, D, 7, "application/json", 5.0)
TOLD: Final = TagTold("0b", *TAG, (WORD, WORD._replace(voter=b"w" * VOTER_BYTES)))


class Bus(Protocol):
    """Carries what schedulers tell each other."""

    def carry(self, told: list[SharedTag]) -> list[SharedTag]: ...


class InMemory:
    def carry(self, told: list[SharedTag]) -> list[SharedTag]:
        return told


class InRedis:
    def __init__(self, place: RedisPlace) -> None:
        self._place = place

    def carry(self, told: list[SharedTag]) -> list[SharedTag]:
        async def through() -> list[SharedTag]:
            writer, reader = RedisTags(self._place), RedisTags(self._place)
            await reader.news(0.001)
            for each in told:
                await writer.add(each)
            found: list[SharedTag] = []
            while len(found) < len(told):
                found += await reader.news(1.0)
            await writer.close()
            await reader.close()
            return found

        return asyncio.run(through())


class Several:
    """Schedulers, each with its hosts by the first letter: host `a1` is connected to `0a`."""

    def __init__(self, bus: Bus, *hosts: str) -> None:
        self._bus = bus
        self.at = {name: Playbook() for name in NAMES}
        live = tuple(SchedulerAt(name, f"http://{name}:1") for name in NAMES)
        for name, play in self.at.items():
            play.tell(LiveListChanged(1, name, live))
        for host in hosts:
            self.connect(host)

    def connect(self, host: str, at: str = "") -> None:
        play = self.of(at or host)
        play.certified = True
        _ = play >> (host, hello(host)) << (host, Welcome(1, seen_at=play.seen_at))

    def of(self, host: str) -> Playbook:
        return self.at[f"0{host[0]}"]

    def share(self) -> None:
        """All hear what was told, until there is nothing more to tell."""
        while told := [each for play in self.at.values() for each in play.of_tags]:
            for play in self.at.values():
                play.of_tags.clear()
            for each in self._bus.carry(told):
                for name, play in self.at.items():
                    if name != each.scheduler:
                        play._play(each)

    def pass_time(self, seconds: float) -> None:
        for name, play in self.at.items():
            self.at[name] = play >> Passes(seconds)

    def all_asked(self, *hosts: str) -> None:
        """These were asked, and nothing else was said."""
        for host in hosts:
            _ = self.of(host) << (host, QUERY)
        assert all(self.at.values())

    def say(self, **words: TagAnswer) -> None:
        for host, word in words.items():
            _ = self.of(host) >> (host, word)


@pytest.fixture(params=["memory", "redis"])
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    if request.param == "memory":
        yield InMemory()
    else:
        yield InRedis(request.getfixturevalue("redis_place"))


def asked(bus: Bus, *hosts: str) -> Several:
    """Host a0, which is connected to 0a alone, has asked; and all hosts were."""
    made = Several(bus, "a0", *hosts)
    _ = made.of("a") >> ("a0", LOOKUP)
    made.share()
    made.all_asked("a0", *hosts)
    return made


def test_whoever_is_asked_tells_what_hosts_of_others_were_told(bus: Bus) -> None:
    made = asked(bus, "b1", "c1")
    made.say(a0=NOTHING, b1=ANSWER, c1=ANSWER)
    made.share()
    assert made.of("a") << ("a0", RESULT)
    made.connect("b2")
    assert made.of("b") >> ("b2", LOOKUP) << ("b2", RESULT), "it is known there, too"


def test_most_words_of_all_hosts_count_and_not_most_results(bus: Bus) -> None:
    made = asked(bus, "a1", "a2", "b1", "b2", "c1", "c2", "c3", "c4", "c5")
    lies = dict.fromkeys(("a1", "a2", "b1", "b2"), LIE)
    made.say(a0=NOTHING, **lies, **dict.fromkeys(("c1", "c2", "c3", "c4", "c5"), ANSWER))
    made.share()
    assert made.of("a") << ("a0", structs.replace(RESULT, hosts=5))


def test_a_host_that_is_connected_to_several_has_one_word() -> None:
    made = Several(InMemory(), "a0", "b1")
    for at in "abc":
        made.connect("liar", at)
    _ = made.of("a") >> ("a0", LOOKUP)
    made.share()
    for at in "abc":
        _ = made.of(at) << ("liar", QUERY)
    made.all_asked("a0", "b1")
    for at in "abc":
        _ = made.of(at) >> ("liar", LIE)
    made.say(a0=NOTHING, b1=ANSWER)
    made.share()
    assert made.of("a") << ("a0", UNKNOWN)


def test_a_scheduler_that_is_gone_or_slow_is_waited_for_a_while() -> None:
    made = asked(InMemory(), "a1", "a2", "b1")
    made.say(a0=NOTHING, a1=ANSWER, a2=ANSWER)
    made.share()
    made.pass_time(SHARE * TELL_S - 0.01)
    assert all(made.at.values()), "b1 may have more to say"
    _ = made.of("a") >> Passes(0.02) << ("a0", RESULT)
    assert made.of("a")
    made.of("a").tell(TOLD)
    assert made.of("a"), "that is too late"


def test_without_redis_the_own_hosts_words_decide() -> None:
    made = Several(InMemory(), "a0", "a1", "a2")
    _ = made.of("a") >> ("a0", LOOKUP) << ("a0", QUERY) << ("a1", QUERY) << ("a2", QUERY)
    made.say(a0=NOTHING, a1=ANSWER, a2=ANSWER)
    assert made.of("a") >> Passes(SHARE * TELL_S) << ("a0", RESULT)


def test_a_host_starts_no_more_lookups_by_starting_them_at_several() -> None:
    made = Several(InMemory(), "b1")
    for number in range(LOOKUPS + 5):
        made.of("b").tell(structs.replace(ASKED, scheduler="0a", tag=str(number)))
        if number < LOOKUPS_PER_HOST:
            tag = (*TAG[:2], str(number))
            _ = made.of("b") << ("b1", TagQuery(*tag, TELL_S))
    assert made.of("b"), "further ones ask nobody"


def test_who_asks_again_is_told_again_what_hosts_have_said() -> None:
    made = asked(InMemory(), "b1", "b2")
    made.say(a0=NOTHING, b1=ANSWER, b2=ANSWER)
    made.share()
    _ = made.of("a") << ("a0", RESULT)
    made.of("b").tell(structs.replace(ASKED, scheduler="0c"))
    [told] = made.of("b").of_tags
    assert isinstance(told, TagTold)
    assert len(told.words) == 2
    assert all(made.at.values()), "b1 is not asked again"


def test_one_scheduler_tells_nobody() -> None:
    play = Playbook("n", "a", "b") >> ("n", LOOKUP) << ("n", QUERY) << ("a", QUERY) << ("b", QUERY)
    assert play >> ("n", NOTHING) >> ("a", ANSWER) >> ("b", ANSWER) << ("n", RESULT)
    assert play.of_tags == []


def test_of_many_words_a_sample_is_told() -> None:
    made = Several(InMemory(), *(f"b{number}" for number in range(MAX_TOLD + 8)))
    made.of("b").tell(structs.replace(ASKED, scheduler="0a"))
    hosts = [f"b{number}" for number in range(MAX_TOLD + 8)]
    for host in hosts:
        _ = made.of("b") << (host, QUERY)
    made.say(**dict.fromkeys(hosts, ANSWER))
    [told] = made.of("b").of_tags
    assert isinstance(told, TagTold)
    assert len({word.voter for word in told.words}) == MAX_TOLD
    stored = encode(told)
    assert len(stored) <= MAX_BYTES
    assert decode(stored) == told


class TestEntries:
    @pytest.mark.parametrize("told", [ASKED, TOLD, structs.replace(TOLD, words=())])
    def test_it_comes_as_it_went(self, told: SharedTag) -> None:
        assert decode(encode(told)) == told

    def test_it_is_of_arrays(self) -> None:
        names = ["0b", *TAG]
        words = [[each.voter, 0, each.age_s] for each in TOLD.words]
        told = [*names, [[WORD.digest, WORD.size_bytes, WORD.media_type]], words]
        assert msgpack.unpackb(zlib.decompress(encode(TOLD))) == told
        assert decode(zlib.compress(msgpack.packb(told))) == TOLD
        assert msgpack.unpackb(zlib.decompress(encode(ASKED))) == [*names, ASKED.starter]

    def test_hosts_cannot_make_it_longer(self) -> None:
        words = [
            ToldWord(number.to_bytes(VOTER_BYTES, "big"), number.to_bytes(32, "big"), number, f"{number:0255}", 1.0)
            for number in range(MAX_TOLD)
        ]
        odd = [word._replace(digest=bytes((37 * n * word.size_bytes + n) % 256 for n in range(32))) for word in words]
        encoded = encode(structs.replace(TOLD, words=tuple(odd)))
        assert len(encoded) <= MAX_BYTES
        found = decode(encoded)
        assert isinstance(found, TagTold)
        assert found.words == tuple(odd[: len(found.words)])

    @pytest.mark.parametrize(
        "found",
        [
            [],
            ["0b", *TAG],
            ["0b", "no host!", *TAG[1:], "x"],
            ["0b", *TAG, 7],
            [7, *TAG, "x"],
            ["0b", *TAG, "x" * 999],
            ["0b", *TAG, [[D, 7, "a"]], [[b"v", 0, 1.0]]],
            ["0b", *TAG, [[D, 7, "a"]], [[b"v" * VOTER_BYTES, 1, 1.0]]],
            ["0b", *TAG, [[D, 7, "a"]], [[b"v" * VOTER_BYTES, 0, -1.0]]],
            ["0b", *TAG, [[D[1:], 7, "a"]], [[b"v" * VOTER_BYTES, 0, 1.0]]],
            ["0b", *TAG, [[D, None, "a"]], [[b"v" * VOTER_BYTES, 0, 1.0]]],
            ["0b", *TAG, [[None, 7, "a"]], [[b"v" * VOTER_BYTES, 0, 1.0]]],
            ["0b", *TAG, 7, 7],
        ],
    )
    def test_what_is_none_is_left_out(self, found: list[object]) -> None:
        assert decode(zlib.compress(msgpack.packb(found))) is None

    @pytest.mark.parametrize(
        "stored", [b"", b"x", zlib.compress(b""), zlib.compress(b"\xc1"), zlib.compress(b"\x91" * 9999)]
    )
    def test_what_is_no_entry(self, stored: bytes) -> None:
        assert decode(stored) is None


def test_the_stream_is_bounded_and_is_gone_when_nobody_asks(redis_place: RedisPlace, shared_redis: RedisServer) -> None:
    async def scenario() -> None:
        tags, late = RedisTags(redis_place), RedisTags(redis_place)
        key = redis_place.key("tags")
        with shared_redis.client.pipeline() as pipe:
            for _ in range(MAX_ENTRIES):
                pipe.xadd(key, {"told": b"none"})
            pipe.execute()
        assert await tags.news(0.001) == [], "what was before is no news"
        await tags.add(TOLD)
        await tags.add(ASKED)
        assert shared_redis.client.xlen(key) == MAX_ENTRIES
        assert 0 < shared_redis.client.pttl(key) <= 60_000
        assert await tags.news(1.0) == [TOLD, ASKED]
        assert await late.news(0.001) == []
        for each in (tags, late):
            await each.close()

    asyncio.run(scenario())


def test_it_is_exchanged_beside_what_hosts_do(redis_place: RedisPlace) -> None:
    async def scenario() -> None:
        one, other = RedisTags(redis_place), RedisTags(redis_place)
        heard: asyncio.Queue[SharedTag] = asyncio.Queue()
        ended: list[bool] = []
        async with BackgroundTasks() as tasks:
            tasks.start(one.write(lambda: bool(ended)))
            tasks.start(other.read(heard.put_nowait, lambda: bool(ended)))

            def is_heard() -> bool:
                one.share(ASKED)  # again: it may not listen yet
                return not heard.empty()

            await until(is_heard)
            ended.append(True)
        assert await heard.get() == ASKED
        await one.close()
        await other.close()

    asyncio.run(scenario())
