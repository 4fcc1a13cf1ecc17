"""What clients got from the mirror: counted as it happens, by few and bounded labels.

The mirror answers 10,000 small requests a second. Counts are therefore plain numbers here, which the event loop's
thread alone changes, and become metrics at each scrape.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from p2pd.admin.metrics import add_distribution
from peer.histogram import Histogram
from proxy.core.pulls import PullSummary
from proxy.core.reasons import Relayed
from proxy.mirror import RequestRecord

K = TypeVar("K")
L = TypeVar("L", bound=tuple[str, ...])

SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.25, 1.0, 2.5, 10.0, 20.0, 40.0, 120.0, 300.0, 600.0)
"""From what the store has, in a millisecond, to a layer of many GiB over a slow line."""

MAX_CLIENTS: Final = 32
"""`/status` tells at most this many families of user agents apart."""

RUNTIMES: Final[Mapping[str, str]] = {
    "docker": "docker",
    "containerd": "containerd",
    "buildkit": "buildkit",
    "cri-o": "cri-o",
    "podman": "podman",
    "libpod": "podman",
    "skopeo": "skopeo",
    "buildah": "buildah",
    "containers": "podman",  # containers/image, of Podman, CRI-O and Skopeo where they do not name themselves
    "p2pd-pull": "p2pd",
}
"""The metrics' name of a runtime by its family of user agents. Every other client is `other`."""

_NAMES: Final = tuple(dict.fromkeys((*RUNTIMES.values(), "other")))

RESULTS: Final = ("complete", "failed")


@dataclass(slots=True)
class Refusal:
    """A request that the mirror answered with an error. `at` is in Unix seconds."""

    status: int
    upstream: str
    kind: str
    client: str
    at: float


@dataclass(slots=True)
class Served:
    """What clients got from the mirror: manifests and blobs, by whether the store had them whole (`hits`)."""

    hits: int = 0
    misses: int = 0
    hit_bytes: int = 0
    miss_bytes: int = 0
    last_refusal: Refusal | None = None

    def add(self, record: RequestRecord) -> None:
        if record.status >= 400:
            if record.upstream and record.status != 401:  # 401 is a part of each login
                client = family_of(record.user_agent)
                self.last_refusal = Refusal(record.status, record.upstream, record.endpoint, client, time.time())
        elif record.cache == "hit":
            self.hits += 1
            self.hit_bytes += record.body_bytes
        elif record.cache == "miss":
            self.misses += 1
            self.miss_bytes += record.body_bytes


@lru_cache(maxsize=256)
def family_of(user_agent: str) -> str:
    """The kind of client, by its user agent: `docker` of `docker/29.0 go/go1.25`."""
    return user_agent.split("/", 1)[0].split(" ", 1)[0].lower() or "unknown"


class ClientMetrics(Collector):
    """Counts the mirror's answers and the pulls. `label` gives the label of an upstream."""

    def __init__(self, label: Callable[[str], str]) -> None:
        self.last_seen: dict[str, float] = {}
        """When each family of user agents last got something, in Unix seconds."""
        self.served = Served()
        self._label = label
        self._requests: Counter[tuple[str, str, str, str]] = Counter()
        self._sent: Counter[tuple[str, str]] = Counter()
        self._refused: Counter[tuple[str, str]] = Counter()
        self._relayed = Counter(dict.fromkeys((each.value for each in Relayed), 0))
        self._seconds: dict[str, Histogram] = {}
        self._first_byte: dict[tuple[str, str], Histogram] = {}
        self._spent_s = {"opening": 0.0, "waiting": 0.0, "client": 0.0}
        self._pulls = Counter(dict.fromkeys(((name, result) for name in _NAMES for result in RESULTS), 0))
        self._pull_seconds: dict[str, Histogram] = {}
        self._pull_bytes = Counter({"store": 0, "peer": 0, "origin": 0})
        self._last_success = 0.0

    def observe(self, record: RequestRecord) -> None:
        """Count one answer of the mirror's."""
        upstream = self._label(record.upstream)
        self._requests[upstream, record.endpoint, record.cache, str(record.status)] += 1
        _histogram(self._seconds, record.endpoint).observe(record.seconds)
        self.served.add(record)
        if record.refused is not None:
            self._refused[upstream, record.refused.value] += 1
        if record.relayed is not None:
            self._relayed[record.relayed.value] += 1
        if record.body_bytes:
            self._sent[upstream, record.cache] += record.body_bytes
        if record.first_byte_s is not None:
            _histogram(self._first_byte, (record.endpoint, record.cache)).observe(record.first_byte_s)
            if record.endpoint == "blobs":
                self._spent_s["opening"] += record.seconds - record.waited_s - record.taken_s
                self._spent_s["waiting"] += record.waited_s
                self._spent_s["client"] += record.taken_s
        if record.status < 400 and record.endpoint in ("manifests", "blobs"):
            self._last_success = time.time()
            self._saw(record.user_agent)

    def pulled(self, pull: PullSummary) -> None:
        """Count a pull that has ended."""
        runtime = RUNTIMES.get(family_of(pull.user_agent), "other")
        self._pulls[runtime, "failed" if pull.failed else "complete"] += 1
        _histogram(self._pull_seconds, runtime).observe(pull.seconds)
        self._pull_bytes.update(store=pull.store_bytes, peer=pull.peer_bytes, origin=pull.origin_bytes)

    def _saw(self, user_agent: str) -> None:
        family = family_of(user_agent)
        if family in self.last_seen or len(self.last_seen) < MAX_CLIENTS:
            self.last_seen[family] = self._last_success

    def collect(self) -> Iterator[Metric]:
        yield _counter(
            "p2pd_proxy_requests",
            "Requests that the mirror answered, by how they were served.",
            ("upstream", "kind", "cache", "code"),
            self._requests,
        )
        yield _counter(
            "p2pd_proxy_sent_bytes",
            "Bytes of bodies sent to clients, by whether the store had them whole.",
            ("upstream", "cache"),
            self._sent,
        )
        yield _counter(
            "p2pd_proxy_refusals",
            "Requests that were refused, or cut short, by reason. `unauthorized` is a part of each login.",
            ("upstream", "reason"),
            self._refused,
        )
        yield _counter(
            "p2pd_proxy_relayed",
            "Blobs that were passed on from their origin, past the store, by reason.",
            ("reason",),
            {(reason,): count for reason, count in self._relayed.items()},
        )
        yield _histograms(
            "p2pd_proxy_request_duration_seconds",
            "From a request to the end of its answer.",
            ("kind",),
            {(kind,): histogram for kind, histogram in self._seconds.items()},
        )
        yield _histograms(
            "p2pd_proxy_first_byte_seconds",
            "From a request until the first byte of the answer's body was there to be sent.",
            ("kind", "cache"),
            self._first_byte,
        )
        yield _counter(
            "p2pd_proxy_blob_seconds",
            "Time of the answers with blobs: `opening` (access, room, source; small blobs whole), `waiting` for bytes "
            "from disk, hosts or origin, `client` taking them.",
            ("spent",),
            {(spent,): seconds for spent, seconds in self._spent_s.items()},
        )
        yield _counter(
            "p2pd_pulls",
            "Pulls that have ended; `failed`: a blob was refused or cut short.",
            ("runtime", "result"),
            self._pulls,
        )
        yield _histograms(
            "p2pd_pull_duration_seconds",
            "From the manifest of an image to the end of its last blob.",
            ("runtime",),
            {(runtime,): histogram for runtime, histogram in self._pull_seconds.items()},
        )
        yield _counter(
            "p2pd_pull_bytes",
            "Bytes of blobs that pulls got, by where the bytes were when the pull began.",
            ("source",),
            {(source,): amount for source, amount in self._pull_bytes.items()},
        )
        yield GaugeMetricFamily(
            "p2pd_mirror_last_success_timestamp_seconds",
            "When the mirror last served a manifest or a blob; 0: not yet.",
            value=self._last_success,
        )


def _histogram(found: dict[K, Histogram], key: K) -> Histogram:
    histogram = found.get(key)
    if histogram is None:
        histogram = found[key] = Histogram(SECONDS)
    return histogram


def _counter(name: str, meaning: str, labels: tuple[str, ...], values: Mapping[L, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _histograms(
    name: str, meaning: str, labels: tuple[str, ...], found: Mapping[L, Histogram]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for label_values, histogram in found.items():
        add_distribution(family, label_values, histogram.statistics())
    return family
