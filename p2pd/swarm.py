"""Makes this node a host of the cluster: who it is, and the scheduler inside if there is none outside."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from p2pd.config import Settings
from p2pd.listening import scheduling
from p2pd.notation import Address, ConfigError
from peer.errors import StoreBrokenError
from peer.swarm.swarm import Identity
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import Settings as Scheduling
from scheduler.shell.server import SchedulerServer

ANYWHERE = ("0.0.0.0", "::")
"""Addresses that other hosts cannot be told."""


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


@asynccontextmanager
async def schedulers(settings: Settings) -> AsyncIterator[tuple[str, ...]]:
    """The URLs of the schedulers to join: those configured, or the one that runs inside for as long as the block.

    Raises ListenError.
    """
    if settings.scheduler:
        yield settings.scheduler
        return
    async with scheduling(SchedulerServer(Scheduler(_scheduling(settings))), settings.listen) as at:
        yield (f"http://{Address('127.0.0.1', at.port) if at.host in ANYWHERE else at}",)


def _host_id(file: Path) -> str:
    try:
        if not file.exists():
            name = "".join(letter for letter in socket.gethostname() if letter.isalnum() or letter in "._-")[:40]
            file.write_text(f"{name or 'host'}-{secrets.token_hex(8)}\n")
        return file.read_text().strip()
    except (OSError, ValueError) as error:
        raise StoreBrokenError(f"{file} cannot be used: {error}; remove it") from error


def _scheduling(settings: Settings) -> Scheduling:
    """The scheduler inside a node leases what the node's own limits allow."""
    return Scheduling(
        leases_per_blob=settings.connections_per_blob,
        leases_per_host=settings.connections_per_origin,
        leases_per_origin=settings.connections_per_origin,
    )
