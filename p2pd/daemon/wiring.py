"""Makes this node a host of the cluster: its host id, its address, and what it exchanges."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from p2pd.config.settings import Settings
from p2pd.config.values import Address, ConfigError
from p2pd.daemon import logs
from p2pd.daemon.host_id import host_id, renew
from p2pd.daemon.reach import Reach, is_ip, reach_of
from peer.host_schedulers import Identity
from proxy.access import Exchange

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust

log = logs.get("p2pd.daemon")

HOST_ID_FILE = "host-id"

METADATA_SHARE = 4
"""One in four of an origin's connections is for metadata requests, so that they do not wait behind blobs."""


def over_tls(urls: Sequence[str]) -> list[str]:
    """The URLs of schedulers, for a host with a certificate: it never speaks with one without TLS."""
    return [f"https://{url.partition('://')[2]}" for url in urls]


def identity(settings: Settings, trust: HostTrust | None = None) -> Identity:
    """This host's id, the same after every restart: that of its certificate."""
    return Identity(
        host=host_id(settings.data / HOST_ID_FILE) if trust is None else trust.host,
        site=settings.site,
        zone=settings.zone,
        rack=settings.rack,
        upload_slots=settings.upload_slots,
        scheduler_timeout_s=settings.scheduler_wait_s,
        software=re.sub(r"[^0-9A-Za-z.+_-]", "", metadata.version("p2pd"))[:32],
    )


def new_id(settings: Settings) -> str:
    """Another id for this host, because another machine has the one it had."""
    return renew(settings.data / HOST_ID_FILE)


def advertised(settings: Settings, listening: Address) -> str:
    """The address that other hosts connect to. Raises ConfigError if no other host can reach it."""
    address = settings.advertise or listening
    if not address.port:
        address = Address(address.host, listening.port)
    reach = reach_of(address.host)
    given = f"advertise is {address}" if settings.advertise else f"peer listens on {address}"
    how = "set advertise to the address at which others reach this host"
    if reach is Reach.NOWHERE:
        raise ConfigError(f"{given}: {how}")
    far = [url for url in settings.scheduler if reach_of(urlsplit(url).hostname or "") is not Reach.THIS_MACHINE]
    if reach is Reach.THIS_MACHINE and far:
        if settings.advertise is None or any(is_ip(urlsplit(url).hostname or "") for url in far):
            raise ConfigError(
                f"{given}, which no other host reaches, and the scheduler is at {far[0]}: let peer listen on an "
                f"address of this host's network (with allow_open = true), and {how}"
            )
        log.warning("no other host reaches the address that is advertised", advertise=str(address), scheduler=far[0])
    elif reach is Reach.THIS_LINK and far:
        text = "only hosts on the same link reach the address that is advertised"
        log.warning(text, advertise=str(address), scheduler=far[0])
    return str(address)


def exchange_of(settings: Settings) -> Exchange:
    """What this node exchanges with other hosts."""
    if settings.is_alone:
        return Exchange.NOTHING
    return Exchange.EVERYTHING if settings.allow_open or settings.has_certificate else Exchange.PUBLIC


def connections_for_blobs(settings: Settings) -> int:
    """The connections to an origin that may carry blobs."""
    return max(1, settings.connections_per_origin * (METADATA_SHARE - 1) // METADATA_SHARE)
