"""The parts of the mirror that ask an origin, without the mirror, and with a clock that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

from peer.net.tag_lookups import TagName
from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.oci.reference import Repository, UpstreamName, parse_reference, parse_repository_name
from peer.origin.client import HttpOrigin
from peer.origin.upstream import Upstream
from peer.tasks import BackgroundTasks
from proxy.access import Access, Exchange
from proxy.catalog import Catalog
from proxy.core.routing import Endpoint, Route
from proxy.origins import Origins
from proxy.tags import Tags
from proxy.upstreams import UpstreamOrigin
from tests.support.registry import ImageRegistry

HUB = UpstreamName("docker.io")


@dataclass
class Others:
    """The rest of the cluster, as `proxy.tags.TagCluster`: most hosts were told `told`."""

    told: Descriptor | None = None
    asked: list[TagName] = field(default_factory=list)

    async def most_were_told(self, name: TagName) -> Descriptor | None:
        self.asked.append(name)
        return self.told


@dataclass
class Parts:
    """`now` is what the clock shows."""

    origins: Origins
    catalog: Catalog
    background: BackgroundTasks
    access: Access = field(init=False)
    tags: Tags = field(init=False)
    now: float = 1000.0
    elsewhere: set[Digest] = field(default_factory=set)
    """What is here because of another place than the one that is asked about."""


def place(repository: str) -> Repository:
    return Repository(HUB, parse_repository_name(repository))


def route(repository: str, reference: str, endpoint: Endpoint = Endpoint.MANIFEST, prefix: str = "") -> Route:
    return Route(endpoint, place(repository), parse_reference(reference), prefix, renamed=bool(prefix))


@asynccontextmanager
async def parts_of(
    registry: ImageRegistry,
    directory: Path,
    *,
    access_ttl_s: float = 100,
    tag_ttl_s: float = 10,
    serve_stale: bool = False,
    others: Others | None = None,
    operators: tuple[str, str] | None = None,
    exchange: Exchange = Exchange.EVERYTHING,
) -> AsyncIterator[Parts]:
    """Everything but the mirror, in front of `registry`; it gives up on one that is gone at the first try.

    `operators` are the operator's name and password there.
    """
    name, password = operators or (None, None)
    origin = HttpOrigin(Upstream(HUB, (registry.url,), max_attempts=1, username=name, password=password))
    origins = Origins({HUB: UpstreamOrigin(origin, has_credentials=operators is not None)})
    users = {} if name is None else {HUB: name}
    with closing(origins), closing(Catalog.open(directory / "catalog.db", operators=users)) as catalog:
        async with BackgroundTasks() as background:
            parts = Parts(origins, catalog, background)
            parts.access = Access(
                origins,
                catalog,
                background,
                ttl_s=access_ttl_s,
                is_only_for=lambda digest, _: digest not in parts.elsewhere,
                exchange=exchange,
                clock=lambda: parts.now,
            )
            parts.tags = Tags(
                origins,
                parts.access,
                catalog,
                background,
                ttl_s=tag_ttl_s,
                serve_stale=serve_stale,
                cluster=others,
                clock=lambda: parts.now,
            )
            yield parts
