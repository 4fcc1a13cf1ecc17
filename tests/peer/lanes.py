"""Origins of which it is known how many requests fill the line."""

from __future__ import annotations

from peer.core.origin_lanes import OriginLanes


class Wide(OriginLanes):
    """Any number of requests pays."""

    def most(self, upstream: str) -> int:  # noqa: ARG002 # the real one's
        return 99


class Narrow(OriginLanes):
    """One request is enough."""

    def is_one_enough(self, upstream: str) -> bool:  # noqa: ARG002 # the real one's
        return True
