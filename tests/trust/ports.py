"""A scheduler with an authority on a real port, and hosts that ask it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scheduler.core.scheduler import Scheduler
from scheduler.shell.admission import Admission
from scheduler.shell.bounds import Bounds
from scheduler.shell.server import SchedulerServer
from scheduler.trust.authority import Authority
from scheduler.trust.certificates import Credentials, new_key, read_credentials, request_certificate
from scheduler.trust.certificates import key_to_pem as pem_of
from scheduler.trust.token import JoinToken

T = TypeVar("T")


@dataclass
class Port:
    """The scheduler's port."""

    url: str
    number: int
    authority: Authority
    admission: Admission

    def token(self, **options: int) -> JoinToken:
        return self.authority.create_token(note="", ttl_s=None, uses=options.get("uses"), now=time.time())

    def credentials(self, host: str) -> Credentials:
        """What a host has that joined."""
        key = new_key()
        chain = self.authority.enroll(self.token().text, host, request_certificate(key), time.time())
        self.admission._read_ledger()
        return read_credentials(pem_of(key), chain, self.authority.ca_pem)


@asynccontextmanager
async def scheduler_at(
    data: Path, *, plain: bool = False, lifetime_s: float = 3600.0, bounds: Bounds | None = None
) -> AsyncIterator[Port]:
    authority = Authority.open(data, time.time(), lifetime_s=lifetime_s)
    admission = Admission(authority, None, authority.ledger)
    server = SchedulerServer(Scheduler(), bounds, admission, plain=plain)
    async with server.serving("127.0.0.1", 0) as number:
        yield Port(f"https://127.0.0.1:{number}", number, authority, admission)
    authority.close()


async def ask(function: Callable[..., T], *arguments: object) -> T:
    """Call what blocks, in a thread."""
    return await asyncio.to_thread(function, *arguments)
