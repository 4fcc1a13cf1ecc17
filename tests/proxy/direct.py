"""The parts of the mirror that ask an origin, without the mirror, and with a clock that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

from peer.background import Background
from peer.core.names import Namespace, parse_reference, parse_repository
from peer.origin.http import HttpOrigin
from peer.origin.upstream import Upstream as HttpUpstream
from proxy.access import Access
from proxy.catalog import Catalog
from proxy.core.grants import Place
from proxy.core.routing import Endpoint, Route
from proxy.origins import Origins, Upstream
from proxy.tags import Tags
from tests.proxy.registry import ImageRegistry

HUB = Namespace("docker.io")


@dataclass
class Parts:
    """`now` is what the clock shows."""

    origins: Origins
    catalog: Catalog
    background: Background
    access: Access = field(init=False)
    tags: Tags = field(init=False)
    now: float = 1000.0


def place(repository: str) -> Place:
    return Place(HUB, repository)


def route(repository: str, reference: str, endpoint: Endpoint = Endpoint.MANIFEST, prefix: str = "") -> Route:
    return Route(endpoint, HUB, parse_repository(repository), parse_reference(reference), prefix)


@asynccontextmanager
async def parts_of(
    registry: ImageRegistry,
    directory: Path,
    *,
    access_ttl_s: float = 100,
    tag_ttl_s: float = 10,
    serve_stale: bool = False,
) -> AsyncIterator[Parts]:
    """Everything but the mirror, in front of `registry`; it gives up on one that is gone at the first try."""
    origin = HttpOrigin(HttpUpstream(HUB, (registry.url,), max_attempts=1))
    origins = Origins({HUB: Upstream(origin)})
    with closing(origins), closing(Catalog.open(directory / "catalog.db")) as catalog:
        async with Background() as background:
            parts = Parts(origins, catalog, background)
            parts.access = Access(origins, catalog, background, ttl_s=access_ttl_s, clock=lambda: parts.now)
            parts.tags = Tags(
                origins,
                parts.access,
                catalog,
                background,
                ttl_s=tag_ttl_s,
                serve_stale=serve_stale,
                clock=lambda: parts.now,
            )
            yield parts
