"""What a host has to do with its schedulers: what it says of itself, to which of them, and what it remembers of each.

The machine decides which scheduler a blob is at (`peer.core.scheduler_set`), and `peer.net.scheduler_clients` has the
connections. This is what lies between: nothing is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from msgspec import Struct, structs

from peer.core import events
from peer.core.events import Event
from peer.core.host import HostMachine
from peer.core.session import SessionState
from peer.net.scheduler_clients import SchedulerClients, SchedulerConnection
from peer.net.scheduler_log import is_elsewhere
from peer.net.tag_lookups import TagLookups
from peer.tasks import BackgroundTasks
from scheduler.protocol import from_host, to_host
from scheduler.protocol.codec import FromHost
from scheduler.protocol.fields import DIGEST_BYTES

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust

log = structlog.get_logger("peer.host")

MAX_PREHEATS = 256
"""Jobs of which is remembered who ordered them."""


class Identity(Struct, frozen=True):
    """Who this host is to others. Without a scheduler for `scheduler_timeout_s`, it asks origins by itself."""

    host: str
    site: str = ""
    zone: str = ""
    rack: str = ""
    upload_slots: int = 5
    scheduler_timeout_s: float = 3.0
    token: str = ""
    software: str = ""


@dataclass(frozen=True, slots=True)
class SwarmHealth:
    """How a host stands with schedulers and its neighbours.

    `unreachable_reports`: the hosts that could not reach this one at its advertised address, as far as a scheduler has
    told. `scheduler_out_s`: for how long there has been no scheduler; None while there is one. `last_error`: the latest
    failure to reach or to keep a scheduler, with its URL. `schedulers`: those to which a connection is wanted.
    """

    neighbours: int
    unreachable_reports: int
    scheduler_out_s: float | None
    last_error: str
    last_error_age_s: float | None
    schedulers: list[SchedulerConnection]


class HostSchedulers:
    """On the event loop. `feed` takes what schedulers say, and what happens to the connections."""

    def __init__(
        self,
        machine: HostMachine,
        identity: Identity,
        feed: Callable[[Event], None],
        tasks: BackgroundTasks,
        *,
        on_cloned: Callable[[], None],
        trust: HostTrust | None,
    ) -> None:
        """`on_cloned` is called when another machine uses this host's id: `rename` is to follow."""
        self.identity = identity
        self.address = ""
        """Where other hosts reach the peer port."""
        self.on_preheat: Callable[[to_host.Preheat | to_host.PreheatEnded], None] = lambda _: None
        """Called with what the scheduler orders ahead of clients."""
        self._machine = machine
        self._feed = feed
        self._told_of_untold = False
        self._seen_at = ""
        """Where a scheduler saw this host, if the log has been told so."""
        self._features: dict[str, tuple[str, ...]] = {}
        """Those of the scheduler at each URL."""
        self._missed_by: dict[str, int] = {}
        """The hosts that could not reach this one, as the scheduler at each URL has told."""
        self._preheats: dict[str, str] = {}
        """The URL of the scheduler that has ordered each preheat, by job."""
        self._alone: dict[bytes, float] = {}
        """Since when a blob on its way has no scheduler that it had before."""
        self._alone_longest_s = 0.0
        """The longest such time of those that are over, since all had one."""
        self._clients = SchedulerClients(
            self._hello,
            self._heard,
            tasks,
            on_welcome=self._welcomed,
            on_lost=self._lost,
            on_cloned=on_cloned,
            trust=trust,
        )
        self._clients.several = len(machine.schedulers.urls) > 1
        self.tags = TagLookups(
            self._clients.tell,
            lambda: self._clients.connected,
            tasks,
            patience_s=identity.scheduler_timeout_s,
        )
        self.keep = self._clients.keep

    # -- to schedulers ---------------------------------------------------------------------------------------------

    def tell(self, message: FromHost, scheduler: str = "") -> None:
        """Send a message to the scheduler at this URL, or at which the blob is that the message is about."""
        self._clients.tell(scheduler or self._scheduler_of(message), message)

    def report_preheat(self, report: from_host.PreheatReport) -> None:
        """Tell the scheduler that ordered a preheat how far this host is; nothing if there is no connection now."""
        scheduler = self._preheats.get(report.job, "")
        digests = [report.digests[at : at + DIGEST_BYTES] for at in range(0, len(report.digests), DIGEST_BYTES)]
        there = b"".join(each for each in digests if self._machine.schedulers.of(each).url == scheduler)
        told = structs.replace(report, digests=there, elsewhere=len(there) < len(report.digests))
        self._clients.tell(scheduler, told)

    def report_pull(self, pulled: from_host.Pulled) -> None:
        """Tell the scheduler that the image's manifest is at of a pull, if it keeps a history of pulls."""
        url = self._scheduler_of(pulled)
        if from_host.PULLS in self._features.get(url, ()):
            self._clients.tell(url, pulled)

    def rename(self, host: str) -> None:
        """This host's id is `host` from now on, on new connections."""
        self.identity = structs.replace(self.identity, host=host)
        self._clients.reopen()

    def _hello(self) -> from_host.Hello:
        who = self.identity
        return from_host.Hello(
            host=who.host,
            oldest=from_host.VERSION_OLDEST,
            newest=from_host.VERSION_NEWEST,
            address=self.address,
            site=who.site,
            zone=who.zone,
            rack=who.rack,
            upload_slots=min(who.upload_slots, from_host.MAX_UPLOAD_SLOTS),
            features=from_host.FEATURES,
            token=who.token,
            software=who.software,
        )

    def _scheduler_of(self, message: FromHost) -> str:
        """The URL of the scheduler that a message's blob is at."""
        if isinstance(message, from_host.Announce):
            return self._machine.schedulers.of(message.holdings[0].digest).url
        return self._machine.schedulers.of(getattr(message, "digest", b"")).url

    # -- from schedulers -------------------------------------------------------------------------------------------

    def take_preheat(self, order: to_host.Preheat | to_host.PreheatEnded, scheduler: str) -> None:
        """The scheduler that has sent an order last is told of it: another may have taken the job over."""
        if isinstance(order, to_host.Preheat):
            self._preheats.pop(order.job, None)
            self._preheats[order.job] = scheduler
            while len(self._preheats) > MAX_PREHEATS:
                del self._preheats[next(iter(self._preheats))]
        self.on_preheat(order)

    def report(self, report: events.ReportQuarantine | events.ReportUntold | events.ReportUnreachable) -> None:
        """Have the log say what a scheduler has told of this host."""
        if isinstance(report, events.ReportQuarantine):
            text = "the scheduler has quarantined this host"
            log.error(text, url=report.scheduler, reason=report.reason, for_s=report.for_s)
        elif isinstance(report, events.ReportUnreachable):
            self._missed_by[report.scheduler] = report.reports
            text = "other hosts cannot reach this one at the address that it advertises: check advertise and firewalls"
            log.warning(text, advertise=self.address, hosts=report.reports)
        elif not self._told_of_untold:
            self._told_of_untold = True
            text = "more blobs are held than the scheduler takes of a host: those used last are announced"
            log.warning(text, not_announced=report.untold, max_blobs=report.max_blobs)

    def _welcomed(self, url: str, welcome: to_host.Welcome) -> None:
        if welcome.seen_at != self._seen_at and is_elsewhere(self.address, welcome.seen_at):
            self._seen_at = welcome.seen_at
            text = "the scheduler sees this host at another address than others are told: can they reach it there?"
            log.info(text, advertise=self.address, seen_at=welcome.seen_at)
        self._features[url] = welcome.features
        self._missed_by.pop(url, None)  # the scheduler counts anew for each connection

    def _lost(self, url: str) -> None:
        self.tags.scheduler_lost(url)
        now = asyncio.get_running_loop().time()
        for digest in self._machine.downloads:
            if self._machine.schedulers.of(digest).url == url:
                self._alone.setdefault(digest, now)

    def _heard(self, event: Event) -> None:
        if self._alone and isinstance(event, events.FromScheduler) and isinstance(event.message, to_host.Joined):
            self._goes_on(event.message.digest)
        self._feed(event)

    def _goes_on(self, digest: bytes) -> None:
        """A blob has a scheduler. The log is told once all have."""
        now = asyncio.get_running_loop().time()
        since = self._alone.pop(digest, now)
        self._alone_longest_s = max(self._alone_longest_s, now - since)
        self._alone = {each: since for each, since in self._alone.items() if each in self._machine.downloads}
        if not self._alone:
            log.info("all blobs on their way have a scheduler again", longest_s=round(self._alone_longest_s, 3))
            self._alone_longest_s = 0.0

    # -- for the operator ------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """There is a connection to a scheduler."""
        return self._machine.schedulers.state is SessionState.CONNECTED

    @property
    def messages(self) -> int:
        """To and from schedulers, since the start."""
        return self._clients.messages

    def health(self, neighbours: int) -> SwarmHealth:
        """How this host stands with schedulers, and with so many neighbours."""
        schedulers = self._clients.facts(self._machine.schedulers.count_at)
        errors = [(each.last_error_age_s, each) for each in schedulers if each.last_error_age_s is not None]
        age_s, latest = min(errors, default=(None, None), key=lambda each: each[0])
        outages = [each.out_s for each in schedulers if each.out_s is not None]
        return SwarmHealth(
            neighbours=neighbours,
            unreachable_reports=max(self._missed_by.values(), default=0),
            scheduler_out_s=None if self.connected else min(outages, default=None),
            last_error="" if latest is None else f"{latest.url}: {latest.last_error}",
            last_error_age_s=age_s,
            schedulers=schedulers,
        )
