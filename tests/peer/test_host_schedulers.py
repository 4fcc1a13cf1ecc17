"""What a host has its log say of its schedulers."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from benchmarks.failover.command import HAS_ONE
from peer.core import events
from peer.core.host import HostMachine, HostSettings
from peer.host_schedulers import HostSchedulers, Identity
from peer.tasks import BackgroundTasks
from scheduler.protocol.to_host import Joined
from tests.peer.host_playbook import source

A = "http://a:65003"
BLOBS = [bytes([number]) * 32 for number in range(3)]


def test_when_all_blobs_on_their_way_have_a_scheduler_again_is_told_once() -> None:
    async def scene() -> None:
        machine = HostMachine(HostSettings(schedulers=(A,), host="host"))
        for digest in BLOBS:
            machine.handle(source(blob=digest), 0.0)
        async with BackgroundTasks() as tasks:
            made = HostSchedulers(machine, Identity("host"), lambda _: None, tasks, on_cloned=lambda: None, trust=None)
            with capture_logs() as logs:
                made._lost(A)
                for digest in BLOBS[:2]:
                    made._heard(events.FromScheduler(Joined(digest, 1, None, sealed=False, neighbours=()), A))
                assert logs == []
                made._heard(events.FromScheduler(Joined(BLOBS[2], 1, None, sealed=False, neighbours=()), A))
                made._heard(events.FromScheduler(Joined(BLOBS[2], 1, None, sealed=False, neighbours=()), A))
            assert [each["event"] for each in logs] == [HAS_ONE]
            assert logs[0]["longest_s"] >= 0.0

    asyncio.run(scene())
