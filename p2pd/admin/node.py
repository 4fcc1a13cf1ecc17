"""A node's admin port: its status, the cache commands, and what may be asked of the daemon."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web
from msgspec import structs

from p2pd.admin.control import Control, control_routes
from p2pd.admin.images import images_of
from p2pd.admin.node_metrics import Telemetry
from p2pd.admin.server import Admits, NotReady, admin_runner
from p2pd.config.upstream import LAYOUT_SCHEME
from p2pd.config.values import show_room
from peer.host import Host
from peer.net.peer_server import PeerServer
from peer.oci.digest import Digest
from peer.origin.client import HttpOrigin
from peer.origin.layout import LayoutOrigin
from peer.store.adopter import Adopter
from peer.store.scrubber import Scrubber
from proxy.origins import Origins
from proxy.upstreams import OTHERS, UpstreamOrigin

if TYPE_CHECKING:
    from p2pd.admin.cluster import Cluster  # loads the scheduler


class Admin:
    """The pages of a node: `/status`, `/cache` and the cache commands; with `control`, `p2pd.admin.control`."""

    def __init__(
        self,
        origins: Origins,
        host: Host,
        peer_server: PeerServer,
        telemetry: Telemetry,
        scrubber: Scrubber,
        adopter: Adopter,
        control: Control | None = None,
        more: Sequence[web.RouteDef] = (),
    ) -> None:
        """`more` and `admits`: see `admin_runner`."""
        self._origins = origins
        self._host = host
        self._store = host.store
        self._peer_server = peer_server
        self._telemetry = telemetry
        self._scrubber = scrubber
        self._adopter = adopter
        self.cluster: Cluster | None = None
        """That of a scheduler inside the node."""
        self.admits: Admits = lambda _: False
        self._control = control
        self.more = [*more]
        """Further routes, until the port has its server; `cluster` and `admits` likewise."""

    def runner(
        self,
        addresses: Mapping[str, str],
        not_ready: NotReady,
        names: frozenset[str] | None = None,
        secret: str | None = None,
    ) -> web.AppRunner:
        """The server of the port; for the arguments see `admin_runner`."""
        return admin_runner(
            addresses=addresses,
            status=self._status,
            scrape=self._telemetry.scrape,
            not_ready=not_ready,
            names=names,
            secret=secret,
            admits=self.admits,
            degraded=self._degraded,
            cluster=self.cluster,
            more=[
                web.get("/cache", self._blobs),
                web.get("/cache/images", self._images),
                web.delete("/cache/{digest}", self._remove),
                web.post("/cache/gc", self._collect),
                web.post("/cache/verify", self._verify),
                *([] if self._control is None else control_routes(self._control)),
                *self.more,
            ],
        )

    def _status(self) -> dict[str, Any]:
        now, expires, who = time.time(), self._host.certificate_expires, self._host.identity
        return {
            "data": str(self._store.directory),
            "upstreams": [*self._origins.upstreams, *([OTHERS] if self._origins.others is not None else [])],
            "upstream_settings": [_settings_of(*each) for each in self._origins.upstreams.items()],
            "cache": {
                **structs.asdict(self._store.statistics()),
                "limits": {
                    "max_bytes": show_room(self._store.quota.max_bytes),
                    "min_free_bytes": show_room(self._store.quota.min_free_bytes),
                },
            },
            "served": self._served(now),
            "adopted": structs.asdict(self._adopter.statistics()),
            "scrub": dataclasses.asdict(self._scrubber.statistics()),
            "downloads": structs.asdict(self._host.statistics()),
            "swarm": {
                "host": self._host.identity.host,
                "place": [each for each in (who.site, who.zone, who.rack) if each],
                "scheduler_connected": self._host.connected,
                "alone": self._host.standalone,
                **dataclasses.asdict(self._host.swarm_health()),
                "certificate_expires_s": None if expires is None else max(0.0, expires - now),
                "sent_bytes": self._peer_server.sent_bytes,
                "busy_answers": self._peer_server.busy_answers,
                **structs.asdict(self._host.messages()),
            },
            "neighbours": [
                structs.asdict(each) for each in self._host.neighbours(self._peer_server.to_neighbours.by_host())
            ],
            "arriving": [structs.asdict(each) for each in self._host.downloads()],
            "clients": {name: round(now - seen, 1) for name, seen in self._telemetry.clients.last_seen.items()},
        }

    def _served(self, now: float) -> dict[str, Any]:
        found = dataclasses.asdict(self._telemetry.clients.served)
        if found["last_refusal"] is not None:
            found["last_refusal"]["age_s"] = round(now - found["last_refusal"].pop("at"), 1)
        return found

    def _degraded(self) -> list[str]:
        """A node that can store nothing serves what it holds, and passes the rest on."""
        state = self._store.state
        return [] if state.is_well else [f"the store is {state.condition.value}, nothing new is stored: {state.cause}"]

    async def _blobs(self, _: web.Request) -> web.Response:
        return web.json_response([structs.asdict(blob) for blob in self._store.blobs()])

    async def _images(self, _: web.Request) -> web.Response:
        found = await _in_thread(partial(images_of, self._store))
        return web.json_response([structs.asdict(image) for image in found])

    async def _remove(self, request: web.Request) -> web.Response:
        digest = Digest(request.match_info["digest"])
        if not self._store.remove(digest):
            return web.json_response({"error": f"{digest} is not in the cache"}, status=404)
        return web.json_response({"removed": digest})

    async def _collect(self, _: web.Request) -> web.Response:
        removed = await _in_thread(self._store.collect)
        return web.json_response(
            {"removed": [blob.digest for blob in removed], "freed_bytes": sum(blob.size_bytes for blob in removed)}
        )

    async def _verify(self, _: web.Request) -> web.Response:
        report = await _in_thread(self._store.verify)
        return web.json_response({"checked": report.checked, "bad": report.bad})


def _settings_of(name: str, upstream: UpstreamOrigin) -> dict[str, Any]:
    """What `p2pd doctor` needs to ask an upstream as this daemon does. Credentials are not among that."""
    origin = upstream.origin
    if isinstance(origin, HttpOrigin):
        said = origin.upstream
        files = {"ca": said.ca_file, "password_file": said.password_file}
        return {"name": name, "urls": [*said.endpoints], **{key: str(file) for key, file in files.items() if file}}
    urls = [f"{LAYOUT_SCHEME}://{origin.directory}"] if isinstance(origin, LayoutOrigin) else []
    return {"name": name, "urls": urls}


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, work)
