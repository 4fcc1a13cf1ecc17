"""A download's timer, on the event loop that the daemon runs on."""

from __future__ import annotations

import asyncio

from peer.core import origin_events
from peer.core.download import Download
from peer.core.member import Member
from peer.core.swarm_events import Begun, Event
from peer.job import Job
from tests.peer.registry_server import PATIENCE_S
from tests.proxy.node import asynchronous


@asynchronous
async def test_a_deadline_that_has_passed_already_is_told_once_and_can_be_set_again() -> None:
    loop = asyncio.get_running_loop()
    told: list[Event] = []
    ticked = asyncio.Event()

    def handle(_: Job, event: Event) -> None:
        told.append(event)
        ticked.set()

    member = Member(Download(4, 30.0), b"d" * 32, "docker.io", "app", patience_s=3.0)
    member.handle(Begun(connected=False), loop.time() - 10.0)
    deadline = member.next_deadline()
    assert deadline is not None
    assert deadline < loop.time()
    job = Job("sha256:" + "64" * 32, member, "", handle)
    job.arm(loop)
    job.arm(loop)
    await asyncio.wait_for(ticked.wait(), PATIENCE_S)
    assert told == [origin_events.Tick()]
    job.end(None)
