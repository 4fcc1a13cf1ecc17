"""The daemon's life: what is made in which order, what runs while it lives, and how it ends.

It starts without the network: nothing is asked of an origin until a client comes. When it ends
(`p2pd.daemon.lifecycle`), it takes no new connections, and what clients are receiving is finished within
`shutdown_grace_s`.
"""

from __future__ import annotations

import asyncio
import math
import platform
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import aiofastnet
import uvloop
from aiohttp import web
from msgspec import structs

from p2pd.admin.node import Admin
from p2pd.admin.node_metrics import Telemetry
from p2pd.admin.secret import new_secret, secret_in
from p2pd.admin.server import NotReady, metrics_runner
from p2pd.config.own_addresses import own_addresses
from p2pd.config.room import quota_of
from p2pd.config.settings import Settings
from p2pd.config.sources import Loaded, Sources
from p2pd.config.upstream import make_upstreams, maker_of_others
from p2pd.config.values import Address, ConfigError
from p2pd.daemon import logs
from p2pd.daemon.control import Control
from p2pd.daemon.drain import Draining
from p2pd.daemon.lifecycle import Daemon, live
from p2pd.daemon.listeners import ListenError, listening, names_of, tell_open
from p2pd.daemon.reload import TAKEN_UP, NodeReload
from p2pd.daemon.schedulers import schedulers
from p2pd.daemon.upkeep import tend, tend_for_ever
from p2pd.daemon.wiring import advertised, connections_for_blobs, exchange_of, identity, new_id
from p2pd.openapi.routes import openapi_routes
from p2pd.predict.telling import MayTell, pulled_of
from p2pd.preheat.host import HostPreheats
from p2pd.preheat.images import ImagesAhead
from p2pd.site.routes import site_routes
from p2pd.tracing.node import NodeTraces, Observe
from peer.core.origin_requests import GIVE_UP_S
from peer.host import Host, Limits
from peer.net.peer_server import PeerServer
from peer.net.upload_sender import Uploading
from peer.oci.digest import AnyDigest, Digest
from peer.oci.reference import Repository, RepositoryName, UpstreamName, parse_upstream_name
from peer.origin.api import Kind
from peer.origin_range import OriginSource
from peer.readers import Readers
from peer.store import Blob, Store
from peer.store.adopter import Adopter
from peer.store.scrubber import Scrubber
from peer.tasks import BackgroundTasks, next_second
from peer.threads import Threads
from peer.trust.piece_keys import PieceKeys
from proxy.access import Access, Exchange
from proxy.catalog import Catalog
from proxy.core.routing import Endpoint
from proxy.mirror import Mirror
from proxy.origins import ANSWER_WITHIN_S, Origins
from proxy.server import Handler, Server
from proxy.tags import Tags

if TYPE_CHECKING:
    from p2pd.daemon.scheduler_inside import SchedulerInside
    from peer.trust.host_trust import HostTrust

log = logs.get("p2pd.daemon")

SOMEWHERE = Address("127.0.0.1", 0)
"""The port for other hosts, where the operator names none."""

BACKGROUND_DIRECTORY = "background"
"""Below the directory of the cache: what the background transport has received a part of."""

SMALL_WORK_THREADS = 8
PEERS_WITHIN_S = 5.0
"""How long other hosts may take to finish the pieces that they are receiving when this one stops."""


def run(sources: Sources, loaded: Loaded) -> NoReturn:
    """Run one node until a signal ends it, and end the process. Raises P2pdError when it cannot start."""
    settings, control = loaded.settings, Control(sources, loaded, TAKEN_UP)
    node = Daemon(
        "p2pd.daemon",
        control,
        partial(serve, settings, control=control),
        headline="mirror",
        facts={"upstreams": [each.name for each in settings.upstream]},
        end_facts={"grace_s": settings.shutdown_grace_s},
    )
    live(node, aiofastnet.loop_factory(uvloop.new_event_loop))


@asynccontextmanager
async def serve(
    settings: Settings,
    not_ready: NotReady,
    *,
    control: Control | None = None,
    answer_within_s: float = ANSWER_WITHIN_S,
    give_up_s: float = GIVE_UP_S,
) -> AsyncIterator[dict[str, str]]:
    """A running node; yields the addresses that it listens on. Leaving the block ends it in order.

    `not_ready` says, for `/readyz`, what stands in the way; `control` is what may be asked of it (None: nothing);
    `answer_within_s` is how long clients are to wait for headers; `give_up_s` is how long an origin that fails within a
    blob is asked again. Raises P2pdError or TrustError when the node cannot start.
    """
    tell_open(settings, ["mirror", "admin", "https_proxy", "peer", *([] if settings.scheduler else ["listen"])])
    async with AsyncExitStack() as stack:
        asyncio.get_running_loop().set_default_executor(Threads(SMALL_WORK_THREADS, "small"))
        quota = quota_of(settings)
        store = await asyncio.to_thread(
            Store.open,
            settings.data,
            max_bytes=quota.max_bytes,
            min_free_bytes=quota.min_free_bytes,
            ttl_s=quota.ttl_s,
            alone=settings.is_alone,
        )
        stack.callback(store.close)
        adopter = Adopter(store, settings.adopt, keep=settings.adopt_keep)
        await tend(store)  # first of all: the catalog needs room, too
        users = {parse_upstream_name(each.name): each.username for each in settings.named_upstreams if each.username}
        catalog = Catalog.open(settings.data / "catalog.db", operators=users)
        stack.callback(catalog.close)
        last = await stack.enter_async_context(AsyncExitStack())
        background = await stack.enter_async_context(BackgroundTasks())
        trust = _trust_of(settings)
        keys = None
        if trust is not None and settings.pieces != "tls":
            keys = PieceKeys(asyncio.get_running_loop().time, plain=settings.pieces == "plain")
        joined = await stack.enter_async_context(schedulers(settings))
        exchange = exchange_of(settings)
        identify = None if exchange is Exchange.NOTHING else identity(settings, trust)
        new = None if trust is not None else partial(new_id, settings)
        host = Host(store, _limits(settings, give_up_s), background, identify, joined.urls, new, trust, keys)
        stack.callback(host.close)
        await _use_background_transport(stack, settings, host, background)
        adopter.is_arriving, adopter.is_busy = host.is_arriving, lambda: host.serves_clients
        origins = Origins(
            make_upstreams(settings), answer_within_s=answer_within_s, make_other=maker_of_others(settings)
        )
        stack.callback(origins.close)
        shares = exchange is not Exchange.NOTHING
        peer_server = PeerServer(
            host.servable if shares else _nothing_shared,
            host.links.accept if shares else _no_links,
            uploading=Uploading(settings.upload_slots, host.send_unchoke),
            is_far=host.is_far,
            is_checked=host.is_checked,
            rate_bytes_per_s=settings.upload_rate,
            trust=trust,
            keys=keys,
        )
        peer_server.ticket = None if host.background is None else host.ticket
        scrubber = Scrubber(store, settings.scrub_rate)
        telemetry = Telemetry(origins, host, peer_server, scrubber, logs.dropped_lines)
        observe: Observe = telemetry.clients.observe
        traces = _traces_of(settings, host.identity.host or platform.node())
        if traces is not None:
            last.push_async_callback(asyncio.to_thread, traces.close)  # once no task has spans any more
            observe = traces.observing(observe)
            peer_server.on_sent = traces.sent
        readers = Readers(host)
        access = Access(
            origins,
            catalog,
            background,
            ttl_s=settings.access_ttl_s,
            length_of=readers.whole_length,
            is_only_for=readers.is_only_for,
            exchange=exchange,
            on_public=partial(_share, host),
        )
        if exchange is Exchange.PUBLIC:
            host.may_share = catalog.is_public_everywhere
        host.on_arrived = partial(_tell_arrived, access)
        tags = Tags(
            origins,
            access,
            catalog,
            background,
            ttl_s=settings.tag_ttl_s,
            serve_stale=settings.serve_stale_tags,
            cluster=host.schedulers.tags,
        )
        host.schedulers.tags.own_word = tags.own_word
        mirror = Mirror(
            origins,
            readers,
            access,
            tags,
            background,
            depth=settings.prefetch_layers,
            observe=observe,
        )
        images = ImagesAhead(host, origins, readers, access, tags, catalog, hides_private=exchange is Exchange.PUBLIC)
        preheats = HostPreheats(images, host.schedulers.report_preheat, host.background_pace)
        host.schedulers.on_preheat = preheats.on_order
        proxy = None
        if settings.https_proxy is not None:
            from p2pd.daemon.https_proxy import https_proxy  # `cryptography`, as for trust

            proxy = await stack.enter_async_context(https_proxy(settings, mirror, origins, background))
        secret, inside = new_secret(), joined.inside
        addresses = {"scheduler": ",".join(joined.urls)}
        if control is not None:
            ordered = None if inside is None else inside.preheats
            control.prepare = NodeReload(origins, access, tags, host, peer_server, background, proxy, ordered).prepare
            control.drained = Draining(mirror, host).drained
            control.used_bytes = lambda: store.statistics().used_bytes
        rules = lambda: (settings if control is None else control.settings).preheat  # noqa: E731 # they change
        routes = [*site_routes(host, origins, readers, access, tags, rules), *openapi_routes()]
        admin = Admin(origins, host, peer_server, telemetry, scrubber, adopter, control, routes)
        if inside is not None:
            await _show_scheduler(stack, inside, admin, telemetry, background)
        admin_runner = admin.runner(addresses, not_ready, names_of(settings, settings.admin), secret)
        admin_at = await stack.enter_async_context(listening(admin_runner, settings.admin))
        if admin.cluster is not None:
            background.start(admin.cluster.run())
            stack.callback(admin.cluster.close)
        stack.enter_context(secret_in(settings.data, secret, admin_at))
        addresses["admin"] = str(admin_at)
        addresses |= await _listen_for_metrics(stack, settings, telemetry)
        peer_runner = web.ServerRunner(web.Server(peer_server.handle), shutdown_timeout=PEERS_WITHIN_S)
        if shares or settings.peer is not None:
            peer_port = listening(peer_runner, settings.peer or SOMEWHERE, trust, plain_too=keys is not None)
            peer_at = await stack.enter_async_context(peer_port)
            addresses["peer"] = str(peer_at)
        if shares:
            stack.push_async_callback(host.disconnect)  # before the port, which waits for links that others dialled
            addresses["advertise"] = advertised(settings, peer_at)
        answer = mirror.handle if traces is None else traces.of_requests(mirror.handle)
        may_tell = partial(_may_tell, catalog, exchange)
        stack.callback(_tell_pulls, mirror, telemetry, host, may_tell, math.inf)  # once the last has been served
        addresses |= await _listen_for_clients(stack, settings, mirror, answer, proxy)
        if shares:
            host.start(addresses["advertise"])
        background.start(preheats.run())
        background.start(tend_for_ever(store, catalog))
        background.start(scrubber.run())
        background.start(adopter.run())
        background.start(_tell_pulls_now_and_then(mirror, telemetry, host, may_tell))
        background.start(telemetry.lag.run())
        background.start(telemetry.waits.run())
        if traces is not None:
            background.start(traces.run())
        yield addresses


async def _listen_for_clients(
    stack: AsyncExitStack, settings: Settings, mirror: Mirror, answer: Handler, proxy: web.Server | None
) -> dict[str, str]:
    """Serve container runtimes, at the mirror, at each upstream's own address and by proxy; the addresses, as texts."""
    grace_s = max(0.001, settings.shutdown_grace_s)  # aiohttp takes 0 for no bound at all
    mirror_runner = web.ServerRunner(
        Server(answer, stall_s=settings.client_stall_s, names=names_of(settings, settings.mirror)),
        shutdown_timeout=grace_s,
    )
    mirror_at = await stack.enter_async_context(listening(mirror_runner, settings.mirror))
    addresses = {"mirror": str(mirror_at)}
    addresses |= await _listen_for_each(stack, settings, mirror, answer, mirror_at)
    if proxy is not None and settings.https_proxy is not None:
        proxy_runner = web.ServerRunner(proxy, shutdown_timeout=grace_s)
        proxy_at = await stack.enter_async_context(listening(proxy_runner, settings.https_proxy))
        addresses["https_proxy"] = str(proxy_at)
    return addresses


async def _listen_for_each(
    stack: AsyncExitStack, settings: Settings, mirror: Mirror, answer: Handler, mirror_at: Address
) -> dict[str, str]:
    """Serve the mirror at each upstream's own address too; the addresses, as texts.

    One that this machine does not have is left out. Raises ListenError if another program has one: clients were told to
    send passwords there.
    """
    names = [parse_upstream_name(each.name) for each in settings.named_upstreams]
    listened: dict[str, UpstreamName] = {}
    for name, address in own_addresses(mirror_at, names).items():
        server = Server(answer, stall_s=settings.client_stall_s, names=names_of(settings, address))
        runner = web.ServerRunner(server, shutdown_timeout=max(0.001, settings.shutdown_grace_s))
        try:
            await stack.enter_async_context(listening(runner, address))
        except ListenError as error:
            if error.is_taken:
                raise
            log.warning("an upstream has no address of its own", upstream=name, reason=str(error))
        else:
            listened[address.host] = UpstreamName(name)
    mirror.own = listened
    own = ", ".join(f"{name} at {host}:{mirror_at.port}" for host, name in listened.items())
    return {"own": own} if own else {}


async def _listen_for_metrics(stack: AsyncExitStack, settings: Settings, telemetry: Telemetry) -> dict[str, str]:
    """The port of the metrics, if there is to be one. Raises ListenError."""
    if settings.metrics is None:
        return {}
    at = await stack.enter_async_context(listening(metrics_runner(telemetry.scrape), settings.metrics))
    return {"metrics": str(at)}


async def _nothing_shared(_digest: Digest, _start: int, _stop: int) -> Blob | None:
    """What the port of a node that is alone gives, if the operator wants a port."""
    return None


async def _no_links(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=404, text="this node is alone: it has no scheduler\n")


def _trust_of(settings: Settings) -> HostTrust | None:
    """This host's credentials; None in a cluster without certificates. Raises TrustError, ConfigError."""
    if not settings.has_certificate:
        return None
    from p2pd.daemon.trust import host_trust  # `cryptography` has 10 MiB, which a node without trust does not need

    return host_trust(settings)


async def _show_scheduler(
    stack: AsyncExitStack, inside: SchedulerInside, admin: Admin, telemetry: Telemetry, tasks: BackgroundTasks
) -> None:
    """Have the admin port show the scheduler inside, and take orders for it. Raises P2pdError."""
    for collector in inside.collectors():
        telemetry.registry.register(collector)
    admin.more += await stack.enter_async_context(inside.preheating(tasks))
    admin.cluster, admin.admits = inside.cluster, inside.preheats.admits


async def _use_background_transport(
    stack: AsyncExitStack, settings: Settings, host: Host, tasks: BackgroundTasks
) -> None:
    """Have pieces come by it that give way, if the operator wants that and libtorrent is here."""
    if settings.background_transport == "http" or exchange_of(settings) is Exchange.NOTHING:
        return
    from peer.background.client import BackgroundProcess, is_installed
    from peer.background.transport import BackgroundTransport

    if not is_installed():
        log.warning("background transfers go over HTTP, as libtorrent is not here: pip install 'p2pd[bittorrent]'")
        return
    directory, listening_at = settings.data / BACKGROUND_DIRECTORY, (settings.peer or SOMEWHERE).host
    process = BackgroundProcess(directory, listening_at, settings.background_port)
    transport = BackgroundTransport(process, host.machine.gives_way, lambda: host.background_pace.rate_bytes_per_s)
    await transport.limit(settings.upload_rate, settings.download_rate)
    stack.push_async_callback(transport.close)
    tasks.start(transport.run())
    host.use(transport)


def _traces_of(settings: Settings, host: str) -> NodeTraces | None:
    """What records this node's traces; None: nothing does. Raises ConfigError."""
    if not settings.traces:
        return None
    try:
        from p2pd.tracing.spans import Recorder  # the SDK is an extra: 7 MiB
    except ImportError:
        raise ConfigError("traces needs OpenTelemetry's SDK, which is not here: pip install 'p2pd[tracing]'") from None
    return NodeTraces(Recorder(settings.traces, host=host, share=settings.trace_share))


def _limits(settings: Settings, give_up_s: float) -> Limits:
    return Limits(
        connections_for_blobs(settings),
        settings.connections_per_blob,
        give_up_s=give_up_s,
        download_rate_bytes_per_s=settings.download_rate,
    )


def _share(host: Host, digest: AnyDigest) -> None:
    held = host.store.peek(digest) if isinstance(digest, Digest) else None
    if held is not None and held.complete and held.digest.raw not in host.arrivals:
        host.share(held)


def _tell_arrived(access: Access, source: OriginSource) -> None:
    endpoint = Endpoint.MANIFEST if source.ref.kind is Kind.MANIFEST else Endpoint.BLOB
    repository = Repository(UpstreamName(source.upstream), RepositoryName(source.ref.repository))
    access.arrived(repository, endpoint, source.ref.digest)


def _may_tell(catalog: Catalog, exchange: Exchange, repository: Repository, manifest: AnyDigest) -> bool:
    if exchange is Exchange.PUBLIC:
        return catalog.is_for_everybody(repository, Endpoint.MANIFEST, manifest)
    return exchange is Exchange.EVERYTHING


async def _tell_pulls_now_and_then(mirror: Mirror, telemetry: Telemetry, host: Host, may_tell: MayTell) -> None:
    while True:
        await next_second()
        _tell_pulls(mirror, telemetry, host, may_tell, time.monotonic())


def _tell_pulls(mirror: Mirror, telemetry: Telemetry, host: Host, may_tell: MayTell, now: float) -> None:
    for pull in mirror.ended_pulls(now):
        log.info("pulled", **structs.asdict(pull))
        telemetry.clients.pulled(pull)
        pulled = pulled_of(pull, may_tell)
        if pulled is not None:
            host.schedulers.report_pull(pulled)
