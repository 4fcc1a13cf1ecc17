"""Which ports are guarded against DNS rebinding, and by which names they may be called."""

from __future__ import annotations

from p2pd.config import Settings
from p2pd.notation import Address


def names_of(settings: Settings, listening: Address) -> frozenset[str] | None:
    """The names, in lower case, that a request may be for at the port that listens there; None: any.

    A browser on this machine is what reaches a loopback address and nothing else does. A port that others can reach is
    called by names that only its network knows, and has a firewall before it: the operator said so (`allow_open`).
    """
    if not listening.is_loopback:
        return None
    known = [listening] if settings.advertise is None else [listening, settings.advertise]
    return frozenset(each.host.lower() for each in known)
