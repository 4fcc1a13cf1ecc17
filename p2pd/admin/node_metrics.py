"""Metrics for Prometheus: the mirror's answers, the sources of bytes, and the state of the store.

Labels are few and bounded: upstreams are the operator's own, and all others together `*`; never repositories or
digests. Counters of the lower packages are read at each scrape; only answers are counted as they happen
(`p2pd.admin.client_metrics`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from p2pd.admin.client_metrics import ClientMetrics
from p2pd.admin.download_waits import DownloadWaits
from p2pd.admin.metrics import LoopLag, add_distribution, metrics_of
from peer.host import Host
from peer.net.peer_server import PeerServer
from peer.origin.client import HttpOrigin
from peer.origin.rates import OriginStatistics
from peer.store.health import Condition
from peer.store.scrubber import Scrubber
from proxy.origins import Origins
from proxy.upstreams import OTHERS


class Telemetry:
    """All metrics of one node, but those of a scheduler inside it. `dropped_lines`: see `p2pd.admin.metrics`."""

    def __init__(
        self,
        origins: Origins,
        host: Host,
        peer_server: PeerServer,
        scrubber: Scrubber,
        dropped_lines: Callable[[], int] = lambda: 0,
    ) -> None:
        self.clients = ClientMetrics(origins.label)
        self.lag = LoopLag()
        self.registry = metrics_of(_Statistics(origins, host, peer_server, scrubber), dropped_lines, self.lag)
        self.registry.register(self.clients)
        self.waits = DownloadWaits(host.waits)
        self.registry.register(self.waits)

    def scrape(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Statistics(Collector):
    """Turns the frozen statistics of the lower packages into metrics at each scrape."""

    def __init__(self, origins: Origins, host: Host, peer_server: PeerServer, scrubber: Scrubber) -> None:
        self._origins = origins
        self._host = host
        self._peer_server = peer_server
        self._scrubber = scrubber

    def collect(self) -> Iterator[Metric]:
        downloads = self._host.statistics()
        fetched = CounterMetricFamily("p2pd_download_bytes", "Verified bytes that came in.", labels=("source",))
        fetched.add_metric(["origin"], downloads.origin_bytes)
        fetched.add_metric(["peer"], downloads.peer_bytes)
        yield fetched
        yield CounterMetricFamily(
            "p2pd_verify_failures", "Blobs whose bytes were not what their digest says.", value=downloads.corrupt
        )
        yield CounterMetricFamily(
            "p2pd_corrupt_pieces",
            "Pieces from other hosts that were not what their digest says.",
            value=downloads.corrupt_pieces,
        )
        yield CounterMetricFamily(
            "p2pd_unusable_answers",
            "Answers of registries to requests for blobs whose length, range or coding makes them useless.",
            value=downloads.unusable_answers,
        )
        yield CounterMetricFamily(
            "p2pd_reread_bytes",
            "Bytes of arrived blobs that were read back from the disk for their SHA-256: they came out of order.",
            value=downloads.reread_bytes,
        )
        yield GaugeMetricFamily("p2pd_downloads_active", "Blobs on their way to this host.", value=downloads.active)
        yield from self._of_store()
        yield from self._of_origins()
        yield from self._of_swarm()

    def _of_store(self) -> Iterator[Metric]:
        store = self._host.store.statistics()
        yield GaugeMetricFamily("p2pd_cache_bytes", "Room that blobs take.", value=store.used_bytes)
        yield GaugeMetricFamily("p2pd_cache_capacity_bytes", "Room that blobs may take.", value=store.max_bytes)
        adopted = "Blobs that are held in files of container runtimes, and take no room of the cache's."
        yield GaugeMetricFamily("p2pd_cache_adopted_bytes", adopted, value=store.adopted_bytes)
        yield GaugeMetricFamily("p2pd_cache_blobs", "Blobs in the store.", value=store.blobs)
        yield CounterMetricFamily("p2pd_cache_evicted", "Blobs evicted for lack of room or use.", value=store.evicted)
        yield CounterMetricFamily(
            "p2pd_cache_lost",
            "Blobs that were gone from the disk, or had other bytes there than were stored.",
            value=store.lost,
        )
        yield CounterMetricFamily(
            "p2pd_preheated_bytes", "Bytes of blobs that came by preheats.", value=store.preheated_bytes
        )
        yield CounterMetricFamily(
            "p2pd_preheated_used_bytes",
            "Of these, bytes of blobs that clients have asked for since. What came before the start is not counted.",
            value=store.preheated_used_bytes,
        )
        condition = GaugeMetricFamily(
            "p2pd_store_condition",
            "1 for what the store is: new blobs are stored only if writable.",
            labels=("condition",),
        )
        for each in Condition:
            condition.add_metric([each.value], each.value == store.condition)
        yield condition
        scrub = self._scrubber.statistics()
        yield CounterMetricFamily("p2pd_scrub_read_bytes", "Bytes that the scrubber has read.", value=scrub.read_bytes)
        yield CounterMetricFamily("p2pd_scrub_bad", "Blobs that the scrubber found wrong, or gone.", value=scrub.bad)
        yield GaugeMetricFamily(
            "p2pd_scrub_last_pass_timestamp_seconds",
            "When the scrubber last had read all that is held; 0: not yet.",
            value=scrub.last_pass.ended if scrub.last_pass else 0,
        )

    def _of_origins(self) -> Iterator[Metric]:
        answers = CounterMetricFamily("p2pd_origin_answers", "Answers of origins.", labels=("upstream", "class"))
        retries = CounterMetricFamily("p2pd_origin_retries", "Attempts after a failed one.", labels=("upstream",))
        connections = GaugeMetricFamily("p2pd_origin_connections", "Open connections.", labels=("upstream",))
        latency = HistogramMetricFamily(
            "p2pd_origin_latency_seconds",
            "From a request to an origin to the headers of its answer.",
            labels=("upstream",),
        )
        refusals = CounterMetricFamily(
            "p2pd_origin_authentication_failures",
            "Requests with the operator's own password that got 401 or 403.",
            labels=("upstream",),
        )
        found: dict[str, OriginStatistics] = {
            name: upstream.origin.statistics()
            for name, upstream in self._origins.upstreams.items()
            if isinstance(upstream.origin, HttpOrigin)
        }
        if self._origins.others is not None:
            found[OTHERS] = self._origins.others.statistics()
        for name, statistics in found.items():
            for status_class, count in sorted(statistics.answers.items()):
                answers.add_metric([name, status_class], count)
            retries.add_metric([name], statistics.retries)
            connections.add_metric([name], statistics.open_connections)
            add_distribution(latency, [name], statistics.latency_s)
            refusals.add_metric([name], statistics.refusals)
        yield from (answers, retries, connections, latency, refusals)

    def _of_swarm(self) -> Iterator[Metric]:
        sent_bytes, busy = self._peer_server.sent_bytes, self._peer_server.busy_answers
        yield CounterMetricFamily("p2pd_upload_bytes", "Bytes of pieces sent to other hosts.", value=sent_bytes)
        yield CounterMetricFamily("p2pd_upload_busy", "Hosts told that all upload slots are taken.", value=busy)
        background = self._host.background
        moved = CounterMetricFamily(
            "p2pd_background_bytes",
            "Bytes that the background transport brought, which are among p2pd_download_bytes, and sent, which are not"
            " among p2pd_upload_bytes.",
            labels=("direction",),
        )
        moved.add_metric(["received"], 0 if background is None else background.received_bytes)
        moved.add_metric(["sent"], 0 if background is None else background.sent_bytes)
        yield moved
        yield CounterMetricFamily(
            "p2pd_background_fallbacks",
            "Pieces that came by HTTP because the background transport did not bring them.",
            value=0 if background is None else background.fallbacks,
        )
        yield GaugeMetricFamily(
            "p2pd_background_runs",
            "1 while the process of the background transport runs, else 0.",
            value=background is not None and background.runs,
        )
        messages = self._host.messages()
        yield CounterMetricFamily("p2pd_link_messages", "Messages to neighbours.", value=messages.link_messages)
        yield CounterMetricFamily(
            "p2pd_scheduler_messages", "Messages to and from the scheduler.", value=messages.scheduler_messages
        )
        yield GaugeMetricFamily(
            "p2pd_scheduler_connected", "1 while there is a scheduler, else 0.", value=self._host.connected
        )
        health = self._host.swarm_health()
        yield GaugeMetricFamily(
            "p2pd_scheduler_out_seconds",
            "For how long this host has been without a scheduler; 0 while there is one, or is to be none.",
            value=health.scheduler_out_s or 0.0,
        )
        connections = GaugeMetricFamily(
            "p2pd_scheduler_connection",
            "Of each scheduler to which a connection is wanted: 1 while there is one, else 0.",
            labels=["scheduler"],
        )
        blobs = GaugeMetricFamily(
            "p2pd_scheduler_blobs", "Blobs that are here or on their way, by the scheduler.", labels=["scheduler"]
        )
        for each in health.schedulers:
            connections.add_metric([each.url], each.connected)
            blobs.add_metric([each.url], each.blobs)
        yield connections
        yield blobs
        yield GaugeMetricFamily("p2pd_neighbours", "Hosts that this one has a link to.", value=health.neighbours)
        yield GaugeMetricFamily(
            "p2pd_unreachable_reports",
            "Hosts that could not reach this one at its advertised address.",
            value=health.unreachable_reports,
        )
        yield GaugeMetricFamily(
            "p2pd_certificate_expires_timestamp_seconds",
            "When this host's certificate is over; 0 without one.",
            value=self._host.certificate_expires or 0.0,
        )
