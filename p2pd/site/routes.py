"""The page of a node's admin port by which it takes in what was carried to it (`p2pd.site.importing`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web

from p2pd.config.preheat_rules import PreheatRule
from peer.host import Host
from peer.readers import Readers
from proxy.access import Access
from proxy.origins import Origins
from proxy.tags import Tags


def site_routes(
    host: Host,
    origins: Origins,
    readers: Readers,
    access: Access,
    tags: Tags,
    rules: Callable[[], Sequence[PreheatRule]],
) -> list[web.RouteDef]:
    """The page needs the daemon's secret. `rules` are those in force."""

    async def take_in(request: web.Request) -> web.StreamResponse:
        from p2pd.site.answering import answers  # most nodes are never asked, and these import much
        from p2pd.site.importing import SiteImport

        return await answers(SiteImport(host, origins, readers, access, tags), rules)(request)

    return [web.post("/site/import", take_in)]
