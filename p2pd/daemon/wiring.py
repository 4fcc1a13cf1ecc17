"""Makes this node a host of the cluster: its host id, its address, and a scheduler inside if none is configured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from p2pd.config.settings import Settings
from p2pd.config.values import Address, ConfigError
from p2pd.daemon.host_id import host_id
from p2pd.daemon.listeners import scheduling
from peer.host import Identity
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.shell.server import SchedulerServer

ANYWHERE = ("0.0.0.0", "::")
"""Addresses that other hosts cannot connect to."""

METADATA_SHARE = 4
"""One in four of an origin's connections is for metadata requests, so that they do not wait behind blobs."""


def identity(settings: Settings) -> Identity:
    """This host's id, the same after every restart."""
    return Identity(
        host=host_id(settings.data / "host-id"),
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
        yield Schedulers(settings.scheduler)
        return
    inside = Scheduler(scheduling_of(settings))
    async with scheduling(SchedulerServer(inside), settings.listen) as at:
        yield Schedulers((f"http://{Address('127.0.0.1', at.port) if at.host in ANYWHERE else at}",), inside)


def scheduling_of(settings: Settings) -> SchedulerSettings:
    """The settings of a scheduler, inside a node or alone.

    All hosts together keep to the origin limits that the keys set, and each host to its share for blobs. A host waits
    for the other hosts' words on a tag for `scheduler_wait_s`; they have half of that time to tell.
    """
    return SchedulerSettings(
        leases_per_blob=settings.connections_per_blob,
        leases_per_host=connections_for_blobs(settings),
        leases_per_origin=settings.connections_per_origin,
        tag_tell_s=settings.scheduler_wait_s / 2,
        tag_ttl_s=settings.tag_ttl_s,
    )


def connections_for_blobs(settings: Settings) -> int:
    """The connections to an origin that may carry blobs."""
    return max(1, settings.connections_per_origin * (METADATA_SHARE - 1) // METADATA_SHARE)
