"""Makes this node a host of the cluster: who it is, and the scheduler inside if there is none outside."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from p2pd.config.settings import Settings
from p2pd.config.values import Address, ConfigError
from p2pd.daemon.listeners import scheduling
from peer.errors import StoreBrokenError
from peer.swarm.swarm import Identity
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.shell.server import SchedulerServer

ANYWHERE = ("0.0.0.0", "::")
"""Addresses that other hosts cannot be told."""

METADATA_SHARE = 4
"""One in four of an origin's connections is for questions, so that they do not wait behind blobs."""


def identity(settings: Settings) -> Identity:
    """Who this host is, the same after every restart. Raises StoreBrokenError."""
    return Identity(
        host=_host_id(settings.data / "host-id"),
        site=settings.site,
        zone=settings.zone,
        rack=settings.rack,
        upload_slots=settings.upload_slots,
        patience_s=settings.scheduler_wait_s,
    )


def advertised(settings: Settings, listening: Address) -> str:
    """The address that other hosts are told. Raises ConfigError."""
    if settings.advertise is not None:
        return str(settings.advertise)
    if listening.host in ANYWHERE:
        raise ConfigError(f"peer listens on {listening}: set advertise to the address at which others reach this host")
    return str(listening)


@dataclass(frozen=True, slots=True)
class Schedulers:
    """The URLs of the schedulers to join, and the one that runs inside this node, if there is one."""

    urls: tuple[str, ...]
    inside: Scheduler | None = None


@asynccontextmanager
async def schedulers(settings: Settings) -> AsyncIterator[Schedulers]:
    """The schedulers that are configured, or one that runs inside for as long as the block. Raises ListenError."""
    if settings.scheduler:
        yield Schedulers(settings.scheduler)
        return
    inside = Scheduler(scheduling_of(settings))
    async with scheduling(SchedulerServer(inside), settings.listen) as at:
        yield Schedulers((f"http://{Address('127.0.0.1', at.port) if at.host in ANYWHERE else at}",), inside)


def scheduling_of(settings: Settings) -> SchedulerSettings:
    """What a scheduler goes by, inside a node or alone.

    All hosts together keep to what the keys allow one at an origin, and each to its share for blobs. A host that waits
    for a tag does so for `scheduler_wait_s`: two others have their turn to ask within that.
    """
    return SchedulerSettings(
        leases_per_blob=settings.connections_per_blob,
        leases_per_host=connections_for_blobs(settings),
        leases_per_origin=settings.connections_per_origin,
        tag_resolve_s=settings.scheduler_wait_s / 2,
        tag_ttl_s=settings.tag_ttl_s,
    )


def connections_for_blobs(settings: Settings) -> int:
    """Of an origin's connections, those that are not kept for questions."""
    return max(1, settings.connections_per_origin * (METADATA_SHARE - 1) // METADATA_SHARE)


def _host_id(file: Path) -> str:
    try:
        if not file.exists():
            name = "".join(letter for letter in socket.gethostname() if letter.isalnum() or letter in "._-")[:40]
            file.write_text(f"{name or 'host'}-{secrets.token_hex(8)}\n")
        return file.read_text().strip()
    except (OSError, ValueError) as error:
        raise StoreBrokenError(f"{file} cannot be used: {error}; remove it") from error
