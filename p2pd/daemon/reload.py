"""Puts new settings in force in a node that runs: upstreams, rates, the limits of the cache and of the log.

What is under way goes on untouched: a client's answer, a download, an upload. New requests find what is new.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from p2pd.config.room import quota_of
from p2pd.config.settings import Settings
from p2pd.config.upstream import MakerOfOthers, make_upstreams, maker_of_others
from p2pd.daemon.upkeep import tend
from peer.host import Host
from peer.net.peer_server import PeerServer
from peer.oci.reference import UpstreamName
from peer.tasks import BackgroundTasks
from proxy.access import Access
from proxy.https_proxy import HttpsProxy
from proxy.origins import Origins
from proxy.tags import Tags
from proxy.upstreams import UpstreamOrigin

if TYPE_CHECKING:
    from p2pd.daemon.preheating import SchedulerPreheats  # loads the scheduler

TAKEN_UP: Final = frozenset(
    {
        "upstream",
        "allow_private",
        "origin_rate",
        "upload_rate",
        "download_rate",
        "max_bytes",
        "min_free_bytes",
        "ttl_s",
        "log_level",
        "preheat",
    }
)
"""The keys that a node takes up while it runs."""


class NodeReload(Struct, frozen=True):
    """The parts of a node that have settings which may change."""

    origins: Origins
    access: Access
    tags: Tags
    host: Host
    peer_server: PeerServer
    background: BackgroundTasks
    proxy: HttpsProxy | None = None
    preheats: SchedulerPreheats | None = None

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """See `p2pd.daemon.control.Prepare`. Raises ConfigError."""
        upstreams = make_upstreams(settings, self.origins.upstreams)
        return partial(self._commit, settings, dict(upstreams), maker_of_others(settings))

    def _commit(
        self, settings: Settings, upstreams: dict[UpstreamName, UpstreamOrigin], others: MakerOfOthers | None
    ) -> None:
        before = self.origins.upstreams
        self.origins.replace(upstreams, others)
        changed = {name for name, upstream in before.items() if upstreams.get(name) is not upstream}
        self.access.forget(changed)
        self.tags.forget_all_of(changed)
        self.host.pace.set_rate(settings.download_rate)
        self.peer_server.set_rate(settings.upload_rate)
        if self.host.background is not None:
            self.background.start(self.host.background.limit(settings.upload_rate, settings.download_rate))
        store = self.host.store
        store.set_quota(quota_of(settings))
        self.background.start(tend(store))
        if self.proxy is not None:
            self.background.start(self.proxy.prepare())
        if self.preheats is not None:
            self.preheats.prepare(settings)()
