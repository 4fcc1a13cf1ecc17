"""Makes this node a host of the cluster: its host id, its address, and a scheduler inside if none is configured."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from p2pd.config.settings import Settings
from p2pd.config.values import Address, ConfigError
from p2pd.daemon.listeners import scheduling
from peer.errors import StoreBrokenError
from peer.host import Identity
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.shell.server import SchedulerServer

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust

ANYWHERE = ("0.0.0.0", "::")
"""Addresses that other hosts cannot connect to."""

METADATA_SHARE = 4
"""One in four of an origin's connections is for metadata requests, so that they do not wait behind blobs."""


def over_tls(urls: Sequence[str]) -> list[str]:
    """The URLs of schedulers, for a host with a certificate: it never speaks with one without TLS."""
    return [f"https://{url.partition('://')[2]}" for url in urls]


def identity(settings: Settings, trust: HostTrust | None = None) -> Identity:
    """This host's id, the same after every restart: that of its certificate. Raises StoreBrokenError."""
    return Identity(
        host=_host_id(settings.data / "host-id") if trust is None else trust.host,
        site=settings.site,
        zone=settings.zone,
        rack=settings.rack,
        upload_slots=settings.upload_slots,
        scheduler_timeout_s=settings.scheduler_wait_s,
    )


def advertised(settings: Settings, listening: Address) -> str:
    """The address that other hosts connect to. Raises ConfigError."""
    if settings.advertise is not None:
        return str(settings.advertise)
    if listening.host in ANYWHERE:
        raise ConfigError(f"peer listens on {listening}: set advertise to the address at which others reach this host")
    return str(listening)


@dataclass(frozen=True, slots=True)
class Schedulers:
    """The URLs of the schedulers to join, and the scheduler that runs inside this node, if there is one."""

    urls: tuple[str, ...]
    inside: Scheduler | None = None


@asynccontextmanager
async def schedulers(settings: Settings) -> AsyncIterator[Schedulers]:
    """The configured schedulers; if there are none, a scheduler inside, until the block ends. Raises ListenError."""
    if settings.scheduler:
        yield Schedulers(tuple(over_tls(settings.scheduler)) if settings.has_certificate else settings.scheduler)
        return
    inside = Scheduler(scheduling_of(settings))
    async with scheduling(SchedulerServer(inside), settings.listen) as at:
        yield Schedulers((f"http://{Address('127.0.0.1', at.port) if at.host in ANYWHERE else at}",), inside)


def scheduling_of(settings: Settings) -> SchedulerSettings:
    """The settings of a scheduler, inside a node or alone.

    All hosts together keep to the origin limits that the keys set, and each host to its share for blobs. A host waits
    for a tag for `scheduler_wait_s`; two other hosts get their turn to ask the origin within that time.
    """
    return SchedulerSettings(
        leases_per_blob=settings.connections_per_blob,
        leases_per_host=connections_for_blobs(settings),
        leases_per_origin=settings.connections_per_origin,
        tag_resolve_s=settings.scheduler_wait_s / 2,
        tag_ttl_s=settings.tag_ttl_s,
    )


def connections_for_blobs(settings: Settings) -> int:
    """The connections to an origin that may carry blobs."""
    return max(1, settings.connections_per_origin * (METADATA_SHARE - 1) // METADATA_SHARE)


def host_name() -> str:
    """The beginning of a host id."""
    letters = (letter for letter in socket.gethostname() if (letter.isascii() and letter.isalnum()) or letter in "._-")
    return "".join(letters)[:40] or "host"


def _host_id(file: Path) -> str:
    try:
        if not file.exists():
            file.write_text(f"{host_name()}-{secrets.token_hex(8)}\n")
        return file.read_text().strip()
    except (OSError, ValueError) as error:
        raise StoreBrokenError(f"{file} cannot be used: {error}; remove it") from error
