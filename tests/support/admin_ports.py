"""The admin ports of a scheduler and of a node of it, each on a loop in a thread of its own.

Whoever asks them may block, as programs do. A drained node goes on: nobody waits for its `Control.stop` here.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from p2pd.config.sources import Sources
from p2pd.daemon import node, scheduler
from p2pd.daemon.control import Control
from p2pd.daemon.reload import TAKEN_UP
from tests.support.images import content_of, make_image
from tests.support.node import admin_headers, run
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S

ANY = "127.0.0.1:0"
Serve = Callable[[], AbstractAsyncContextManager[Mapping[str, str]]]


@dataclass(frozen=True)
class AdminPort:
    """Where a daemon is, with what shows its secret."""

    addresses: Mapping[str, str]
    headers: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://{self.addresses['admin']}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """The status and the JSON of the answer. A body of bytes is sent as it is; an empty header is left out."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body)
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        named = {name: value for name, value in {**self.headers, **more}.items() if value}
        with closing(http.client.HTTPConnection(self.addresses["admin"], timeout=PATIENCE_S)) as connection:
            connection.request(method, path, content, named)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())


@contextmanager
def scheduler_port(data: Path) -> Iterator[AdminPort]:
    """Of a scheduler that keeps a history of pulls, and predicts."""
    loaded = _sources(data, listen=ANY, pull_history="90d", predict="advise", predict_model="ewma+push").read()
    with _running(partial(scheduler.serve, loaded.settings, list)) as addresses:
        yield AdminPort(addresses, admin_headers(data))


@contextmanager
def node_port(data: Path, of_scheduler: str, registry: str) -> Iterator[AdminPort]:
    """Of a node of the scheduler at that URL, whose only registry is at the other."""
    sources = _sources(data, mirror=ANY, peer=ANY, scheduler=of_scheduler, upstream=(f"docker.io={registry}",))
    loaded = sources.read()
    control = Control(sources, loaded, TAKEN_UP)
    with _running(partial(node.serve, loaded.settings, list, control=control)) as addresses:
        yield AdminPort(addresses, admin_headers(data))


@contextmanager
def both_ports(directory: Path) -> Iterator[dict[str, AdminPort]]:
    """Of a scheduler and a node of it, which has pulled an image."""
    with ImageRegistry() as registry, scheduler_port(directory / "scheduler") as of_scheduler:
        registry.push("library/app", "1.0", make_image(content_of("layer", 1000)))
        at = f"http://{of_scheduler.addresses['listen']}"
        with node_port(directory / "node", at, registry.url) as of_node:
            mirror = http.client.HTTPConnection(of_node.addresses["mirror"], timeout=PATIENCE_S)
            with closing(mirror):
                mirror.request("GET", "/v2/library/app/manifests/1.0", headers={"User-Agent": "docker/29.0"})
                assert mirror.getresponse().status == 200
            yield {"scheduler": of_scheduler, "node": of_node}


def _sources(data: Path, **flags: object) -> Sources:
    flags |= {"data": data, "admin": ANY, "min_free_bytes": 0}
    return Sources(flags, {}, default_file=data / "no such file")


@contextmanager
def _running(serve: Serve) -> Iterator[Mapping[str, str]]:
    """What is served, until the end of the block."""
    found: list[Mapping[str, str]] = []
    ready = threading.Event()
    ends: Callable[[], object] = lambda: None  # noqa: E731 # it is replaced

    async def main() -> None:
        nonlocal ends
        end, loop = asyncio.Event(), asyncio.get_running_loop()
        ends = lambda: loop.call_soon_threadsafe(end.set)  # noqa: E731
        async with serve() as addresses:
            found.append(addresses)
            ready.set()
            await end.wait()

    def work() -> None:
        try:
            run(main())
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(PATIENCE_S)
    try:
        yield found[0]
    finally:
        ends()
        thread.join()
