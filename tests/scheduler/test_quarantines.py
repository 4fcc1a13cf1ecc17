"""A host that one of several schedulers has quarantined is shut out by all, for as long."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from msgspec import structs

from scheduler.core.events import QuarantineHeard
from scheduler.core.quarantine import QUARANTINE_S, QuarantineFacts
from scheduler.protocol.connection import Closing
from scheduler.protocol.to_host import Quarantined, Welcome
from scheduler.shared.quarantines import RedisQuarantines
from scheduler.shared.redis_clients import RedisPlace
from tests.scheduler.playbook import Passes, Playbook, hello
from tests.support.redis_server import RedisServer

HEARD = QuarantineHeard("liar", "", "it lied elsewhere", 100.0)
FACTS = QuarantineFacts("liar", "10.0.0.7", "it lied", 1000.0 + 60.0)


def known_as(play: Playbook, host: str) -> QuarantineHeard:
    """As the other scheduler knows it: by where it comes from, for it has no certificate."""
    (one,) = play.scheduler._state.hosts.values()
    return structs.replace(HEARD, host=host, came_from=one.came_from)


def test_what_was_proved_elsewhere_holds_here() -> None:
    play = Playbook() >> ("liar", hello("liar")) << ("liar", Welcome(1, ()))
    assert play
    heard = known_as(play, "liar")
    play.tell(heard)
    assert play << ("liar", Quarantined(heard.reason, 100.0)) << ("liar", Closing.QUARANTINED)
    play.tell(structs.replace(heard, for_s=QUARANTINE_S))
    (facts,) = play.scheduler.quarantined(play.now)
    assert facts.until == play.now + 100.0, "hearing of it again makes it no longer"
    play.tell(structs.replace(heard, host="another", for_s=0.0))
    assert len(play.scheduler.quarantined(play.now)) == 1
    assert play >> ("liar", hello("liar")) << ("liar", Closing.QUARANTINED)
    assert play >> Passes(101.0) >> ("liar", hello("liar")) << ("liar", Welcome(1, ()))


def test_they_are_shared_with_the_time_that_is_left(redis_place: RedisPlace, shared_redis: RedisServer) -> None:
    async def scenario() -> None:
        one, another = RedisQuarantines(redis_place), RedisQuarantines(redis_place)
        assert await one.share([FACTS, replace(FACTS, id="over", until=1000.0)], 1000.0) != []
        (heard,) = await another.share([], 7e6)
        assert (heard.host, heard.came_from, heard.reason) == ("liar", "10.0.0.7", "it lied")
        assert 0 < heard.for_s <= 60.0
        (key,) = shared_redis.client.keys(f"{redis_place.key('quarantine:')}*")
        shared_redis.client.pexpire(key, 1)
        for _ in range(1000):
            if not await another.share([], 7e6):
                break
        else:
            raise AssertionError("it is there for ever")
        assert shared_redis.client.scard(redis_place.key("quarantined")) == 0
        shared_redis.client.set(redis_place.key("quarantine:x"), "[1]", px=10_000)
        shared_redis.client.sadd(redis_place.key("quarantined"), "x")
        assert await another.share([], 7e6) == [], "what is none is left out"
        await one.close()
        await another.close()

    asyncio.run(scenario())
