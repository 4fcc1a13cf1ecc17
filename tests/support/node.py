"""A whole node in the test's own event loop, which is the daemon's: mirror and admin port on real sockets."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import aiofastnet
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from p2pd.admin.secret import NAME, authorization
from p2pd.config.settings import Settings
from p2pd.config.sources import load
from p2pd.daemon.node import serve
from proxy.origins import ANSWER_WITHIN_S
from tests.support.client import Client, Reply, ask
from tests.support.registry_server import PATIENCE_S

LOOK_S = 0.002
"""Between looks. A loop that looks again at once takes a core from the other tests."""

P = ParamSpec("P")
T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a test on the loop that the daemon runs on."""
    with asyncio.Runner(loop_factory=aiofastnet.loop_factory(uvloop.new_event_loop)) as runner:
        return runner.run(main)


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test, or a whole example of one, that runs on that loop."""

    @functools.wraps(test)
    def run_it(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return run_it


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that happens on this loop or on a registry's thread, and of which nothing tells."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 # there is no event to wait for
            await asyncio.sleep(LOOK_S)


@dataclass
class Node:
    """A running node. `not_ready` is what /readyz tells, `data` its directory."""

    mirror: str
    admin: str
    not_ready: list[str]
    data: Path

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        authorization: str | None = None,
    ) -> Reply:
        """Ask the mirror for `path` below /v2/."""
        return await ask(self.mirror, method, f"/v2/{path}", headers, authorization=authorization)

    async def get(self, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
        return await self.ask("GET", path, headers, **more)

    async def ask_admin(self, method: str, path: str, *, authorized: bool = True) -> Reply:
        return await ask(self.admin, method, path, admin_headers(self.data) if authorized else None)

    def client(self, **options: Any) -> Client:
        return Client(self.mirror, **options)

    async def cached(self) -> dict[str, dict[str, Any]]:
        """What /cache lists, by digest."""
        return {blob["digest"]: blob for blob in (await self.ask_admin("GET", "/cache")).json}

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels."""
        text = (await self.ask_admin("GET", "/metrics")).body.decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(
            sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def until(self, holds: Callable[[dict[str, dict[str, Any]]], bool]) -> None:
        """Wait until /cache is as wanted."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds(await self.cached()):  # noqa: ASYNC110 # only what it answers tells
                await asyncio.sleep(LOOK_S)


def admin_headers(data: Path) -> dict[str, str]:
    """What shows the secret of the admin port of the node whose directory that is."""
    file = data / NAME
    return {"Authorization": authorization(file.read_text().splitlines()[0])} if file.exists() else {}


def settings_for(data: Path, *upstreams: str, **options: object) -> Settings:
    """Settings of a node for tests. `upstreams` are `NAME=URL`."""
    flags: dict[str, object] = {
        "data": data,
        "mirror": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "upstream": upstreams,
        "min_free_bytes": 0,
        "prefetch_layers": 0,
        "shutdown_grace_s": 5,
    }
    return load(flags | options, {}, default_file=data / "no such file")


@asynccontextmanager
async def node_at(
    data: Path, *upstreams: str, answer_within_s: float = ANSWER_WITHIN_S, **options: object
) -> AsyncIterator[Node]:
    """A node of `upstreams`; `options` are settings."""
    not_ready: list[str] = []
    settings = settings_for(data, *upstreams, **options)
    async with serve(settings, lambda: not_ready, answer_within_s=answer_within_s) as addresses:
        yield Node(addresses["mirror"], addresses["admin"], not_ready, data)
