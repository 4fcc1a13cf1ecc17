"""How a host stands with the scheduler and its neighbours, for the operator."""

from __future__ import annotations

from peer.store import Store
from scheduler.protocol.to_host import Unreachable
from tests.peer.download_fixtures import run
from tests.peer.swarm_fixtures import scripted


def test_the_hosts_that_could_not_reach_this_one_are_told(store: Store) -> None:
    async def scene() -> None:
        async with scripted(store) as swarm:
            assert swarm.host.swarm_health().unreachable_reports == 0
            swarm.says(Unreachable(3))
            health = swarm.host.swarm_health()
            assert (health.unreachable_reports, health.neighbours, health.last_error) == (3, 0, "")

    run(scene)
