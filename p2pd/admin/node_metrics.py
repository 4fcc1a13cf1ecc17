"""Metrics for Prometheus: the mirror's answers, the sources of bytes, and the state of the store.

Labels are few and bounded: upstreams are the operator's own, and all others together `*`; never repositories or
digests. Counters of the lower packages are read at each scrape; only answers are counted as they happen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache

from prometheus_client import Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from p2pd.admin.metrics import SchedulerMetrics, metrics_of
from peer.host import Host
from peer.net.peer_server import PeerServer
from peer.origin.client import HttpOrigin
from peer.origin.rates import OriginStatistics
from peer.store.health import Condition
from peer.store.scrubber import Scrubber
from proxy.mirror import RequestRecord
from proxy.origins import Origins
from proxy.upstreams import OTHERS
from scheduler.core.scheduler import Scheduler

SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)
MAX_CLIENTS = 32
"""`/status` tells at most this many families of user agents apart."""


class Telemetry:
    """All metrics of one node, and the last time that each kind of client was served.

    `scheduler` is the scheduler inside the node, if there is one. `dropped_lines`: see `p2pd.admin.metrics`.
    """

    def __init__(
        self,
        origins: Origins,
        host: Host,
        peer_server: PeerServer,
        scrubber: Scrubber,
        scheduler: Scheduler | None = None,
        dropped_lines: Callable[[], int] = lambda: 0,
    ) -> None:
        self._label = origins.label
        self.registry = metrics_of(_Statistics(origins, host, peer_server, scrubber), dropped_lines)
        if scheduler is not None:
            self.registry.register(SchedulerMetrics(scheduler))
        self.last_seen: dict[str, float] = {}
        requests = Counter(
            "p2pd_proxy_requests",
            "Requests that the mirror answered, by how they were served.",
            ("upstream", "kind", "cache", "code"),
            registry=self.registry,
        )
        sent = Counter(
            "p2pd_proxy_sent_bytes",
            "Bytes of bodies sent to clients, by whether the store had them whole.",
            ("upstream", "cache"),
            registry=self.registry,
        )
        seconds = Histogram(
            "p2pd_proxy_request_duration_seconds",
            "From a request to the end of its answer.",
            ("kind",),
            buckets=SECONDS,
            registry=self.registry,
        )
        # `labels` costs more than to count does, and gives the same each time.
        self._requests_of = cache(requests.labels)
        self._sent_of = cache(sent.labels)
        self._seconds_of = cache(seconds.labels)
        self._last_success = Gauge(
            "p2pd_mirror_last_success_timestamp_seconds",
            "When the mirror last served a manifest or a blob.",
            registry=self.registry,
        )

    def observe(self, record: RequestRecord) -> None:
        """Count one answer of the mirror's."""
        upstream = self._label(record.upstream)
        self._requests_of(upstream, record.endpoint, record.cache, record.status).inc()
        self._seconds_of(record.endpoint).observe(record.seconds)
        if record.body_bytes:
            self._sent_of(upstream, record.cache).inc(record.body_bytes)
        if record.status < 400 and record.endpoint in ("manifests", "blobs"):
            self._last_success.set_to_current_time()
            self._saw(record.user_agent)

    def scrape(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _saw(self, user_agent: str) -> None:
        family = user_agent.split("/", 1)[0].split(" ", 1)[0].lower() or "unknown"
        if family in self.last_seen or len(self.last_seen) < MAX_CLIENTS:
            self.last_seen[family] = time.time()


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
        yield GaugeMetricFamily("p2pd_downloads_active", "Blobs on their way to this host.", value=downloads.active)
        yield from self._of_store()
        yield from self._of_origins()
        yield from self._of_swarm()

    def _of_store(self) -> Iterator[Metric]:
        store = self._host.store.statistics()
        yield GaugeMetricFamily("p2pd_cache_bytes", "Room that blobs take.", value=store.used_bytes)
        yield GaugeMetricFamily("p2pd_cache_capacity_bytes", "Room that blobs may take.", value=store.max_bytes)
        yield GaugeMetricFamily("p2pd_cache_blobs", "Blobs in the store.", value=store.blobs)
        yield CounterMetricFamily("p2pd_cache_evicted", "Blobs evicted for lack of room or use.", value=store.evicted)
        yield CounterMetricFamily(
            "p2pd_cache_lost",
            "Blobs that were gone from the disk, or had other bytes there than were stored.",
            value=store.lost,
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
        yield from (answers, retries, connections)

    def _of_swarm(self) -> Iterator[Metric]:
        sent_bytes, busy = self._peer_server.sent_bytes, self._peer_server.busy_answers
        yield CounterMetricFamily("p2pd_upload_bytes", "Bytes of pieces sent to other hosts.", value=sent_bytes)
        yield CounterMetricFamily("p2pd_upload_busy", "Hosts told that all upload slots are taken.", value=busy)
        messages = self._host.messages()
        yield CounterMetricFamily("p2pd_link_messages", "Messages to neighbours.", value=messages.link_messages)
        yield CounterMetricFamily(
            "p2pd_scheduler_messages", "Messages to and from the scheduler.", value=messages.scheduler_messages
        )
        yield GaugeMetricFamily(
            "p2pd_scheduler_connected", "1 while there is a scheduler, else 0.", value=self._host.connected
        )
        yield GaugeMetricFamily(
            "p2pd_certificate_expires_timestamp_seconds",
            "When this host's certificate is over; 0 without one.",
            value=self._host.certificate_expires or 0.0,
        )
