"""What clients got: pulls by runtime, times, refusals by reason; and what the metrics say of origins and the loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from p2pd.admin.client_metrics import RUNTIMES, SECONDS, ClientMetrics
from peer.histogram import Histogram
from proxy.core.pulls import PullSummary
from proxy.core.reasons import Refused, Relayed
from proxy.mirror import RequestRecord
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S, Answering

APP = "library/app"
LAYER = content_of("layer", 700_000)
IMAGE = make_image(LAYER)
BLOB = f"{APP}/blobs/{digest_of(LAYER)}"
WAITED = "p2pd_download_wait_seconds_total"
DOCKER = {"User-Agent": "docker/29.0 go/go1.25"}


def hub(registry: ImageRegistry) -> str:
    registry.push(APP, "1.0", IMAGE)
    return f"docker.io={registry.url}"


class Counted:
    """ClientMetrics in a registry of its own."""

    def __init__(self) -> None:
        self.clients = ClientMetrics(lambda name: name)
        self._registry = CollectorRegistry()
        self._registry.register(self.clients)

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(name, labels)


def pull(user_agent: str, *, failed: int = 0) -> PullSummary:
    return PullSummary("app:1.0", user_agent, 30.0, 3, failed, 10, 20, 30)


def test_a_histogram_counts_by_upper_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 3.0):
        histogram.observe(value)
    assert list(histogram.statistics().cumulative()) == [(1.0, 2), (2.0, 3), (float("inf"), 4)]
    both = histogram.statistics() + histogram.statistics()
    assert (both.counts, both.total) == ((4, 2, 2), 12.0)


@pytest.mark.parametrize(
    ("user_agent", "runtime"),
    [
        ("docker/29.0 go/go1.25", "docker"),
        ("containerd/v2.1.0", "containerd"),
        ("buildkit/v0.12", "buildkit"),
        ("containers/5.34 (github.com/containers/image)", "podman"),
        ("cri-o/1.30", "cri-o"),
        ("a client of " + "x" * 1000, "other"),
        ("", "other"),
    ],
)
def test_pulls_by_runtime(user_agent: str, runtime: str) -> None:
    counted = Counted()
    counted.clients.pulled(pull(user_agent))
    counted.clients.pulled(pull(user_agent, failed=1))
    assert counted("p2pd_pulls_total", runtime=runtime, result="complete") == 1
    assert counted("p2pd_pulls_total", runtime=runtime, result="failed") == 1
    assert counted("p2pd_pull_duration_seconds_bucket", runtime=runtime, le="20.0") == 0
    assert counted("p2pd_pull_duration_seconds_bucket", runtime=runtime, le="40.0") == 2
    assert [counted("p2pd_pull_bytes_total", source=each) for each in ("store", "peer", "origin")] == [20, 40, 60]


def test_every_runtime_is_there_before_its_first_pull() -> None:
    """Else the first failure is no increase."""
    counted = Counted()
    assert all(counted("p2pd_pulls_total", runtime=each, result="failed") == 0 for each in RUNTIMES.values())


def test_the_buckets_tell_a_hit_from_a_miss_and_a_minute_from_ten() -> None:
    assert [bound for bound in SECONDS if bound <= 0.01] == [0.001, 0.005, 0.01]
    assert len([bound for bound in SECONDS if bound >= 10]) >= 6


def test_where_the_time_of_a_blob_went() -> None:
    counted = Counted()
    counted.clients.observe(RequestRecord("", "blobs", 200, "miss", 9, 10.0, "", 2.5, waited_s=6.0, taken_s=3.0))
    counted.clients.observe(RequestRecord("", "manifests", 200, "hit", 9, 1.0, "", 1.0))
    spent = [counted("p2pd_proxy_blob_seconds_total", spent=each) for each in ("opening", "waiting", "client")]
    assert spent == [1.0, 6.0, 3.0]
    assert counted("p2pd_proxy_first_byte_seconds_sum", kind="blobs", cache="miss") == 2.5


def test_refused_and_relayed() -> None:
    counted = Counted()
    one = RequestRecord("up", "blobs", 404, "none", 0, 1.0, "", refused=Refused.NO_ROOM, relayed=Relayed.LAZY_READ)
    counted.clients.observe(one)
    assert counted("p2pd_proxy_refusals_total", upstream="up", reason="no_room") == 1
    assert counted("p2pd_proxy_relayed_total", reason="lazy_read") == 1


@asynchronous
async def test_a_node_counts_them(registry: ImageRegistry, tmp_path: Path) -> None:
    async with node_at(tmp_path / "store", hub(registry)) as node:
        await node.get(f"{APP}/manifests/1.0", DOCKER)
        await node.get(BLOB, DOCKER)
        await node.get(f"{APP}/manifests/2.0")
        await node.get("nowhere.example/app/manifests/1.0?ns=nowhere.example")
        await node.ask("POST", f"{APP}/blobs/uploads/")
        refusals = "p2pd_proxy_refusals_total"
        assert await node.metric(refusals, upstream="docker.io", reason="not_found") == 1
        assert await node.metric(refusals, upstream="", reason="not_an_upstream") == 1
        assert await node.metric(refusals, upstream="", reason="push") == 1
        assert await node.metric("p2pd_proxy_first_byte_seconds_count", kind="blobs", cache="miss") == 1
        took = await node.metric("p2pd_proxy_request_duration_seconds_sum", kind="blobs")
        assert 0 < await node.metric("p2pd_proxy_first_byte_seconds_sum", kind="blobs") < took
        assert 0 < await node.metric("p2pd_proxy_blob_seconds_total", spent="waiting") < took
        assert 0 < await node.metric("p2pd_proxy_blob_seconds_total", spent="client") < took
        assert await node.metric("p2pd_proxy_blob_seconds_total") == pytest.approx(took)
        assert await node.metric("p2pd_origin_latency_seconds_count", upstream="docker.io") == len(registry.seen)
        async with asyncio.timeout(PATIENCE_S):  # a pull has ended once nothing was asked for some seconds
            while not await node.metric("p2pd_pulls_total"):  # noqa: ASYNC110  # each look is a request
                await asyncio.sleep(0.1)
        assert await node.metric("p2pd_pulls_total", runtime="docker", result="complete") == 1
        assert await node.metric("p2pd_pull_bytes_total", source="origin") == len(LAYER)
        assert await node.metric("p2pd_event_loop_lag_seconds_count") >= 1


@asynchronous
async def test_a_store_without_room(registry: ImageRegistry, tmp_path: Path) -> None:
    async with node_at(tmp_path / "store", hub(registry), max_bytes=100_000) as node:
        assert (await node.get(BLOB)).body == LAYER
        assert await node.metric("p2pd_proxy_relayed_total", reason="no_room") == 1
        assert await node.metric("p2pd_proxy_first_byte_seconds_count", kind="blobs", cache="none") == 1


@asynchronous
async def test_an_answer_that_is_cut_short(registry: ImageRegistry, tmp_path: Path) -> None:
    """Its status is 200: the headers were sent before the bytes were found wrong."""
    big = content_of("big", 9 * 1024 * 1024)
    registry.add_blob(APP, digest_of(big), big[::-1])
    async with node_at(tmp_path / "store", hub(registry)) as node:
        async with node.client() as client:
            reply = await client.ask("GET", f"/v2/{APP}/blobs/{digest_of(big)}")
        assert (reply.status, reply.end) == (200, "fin")
        assert await node.metric("p2pd_proxy_refusals_total", upstream="docker.io", reason="corrupt") == 1


@asynchronous
async def test_a_wrong_password(registry: ImageRegistry, tmp_path: Path) -> None:
    """Not the challenge that each login begins with, and not the refusal of a client's own password."""
    upstream = hub(registry)
    registry.rules[f"/v2/{APP}/manifests/1.0"] = Answering(401, headers={"WWW-Authenticate": 'Basic realm="here"'})
    password = tmp_path / "password"
    password.write_text("wrong")
    failures = "p2pd_origin_authentication_failures_total"
    async with node_at(tmp_path / "store", f"{upstream};username=user;password_file={password}") as node:
        await node.get(f"{APP}/manifests/1.0")
        assert await node.metric(failures, upstream="docker.io") >= 1
        assert await node.metric("p2pd_proxy_refusals_total", reason="unauthorized") == 1
    async with node_at(tmp_path / "another", upstream) as node:
        await node.get(f"{APP}/manifests/1.0")
        assert await node.metric(failures, upstream="docker.io") == 0


@asynchronous
async def test_of_the_swarm(registry: ImageRegistry, tmp_path: Path) -> None:
    async with node_at(tmp_path / "first", hub(registry), advertise="127.0.0.1:0") as first:
        scheduler = (await first.ask_admin("GET", "/status")).json["scheduler"]
        async with node_at(tmp_path / "second", hub(registry), scheduler=[scheduler]) as second:
            async with asyncio.timeout(PATIENCE_S):
                while not await second.metric("p2pd_scheduler_connected"):
                    pass
            assert await second.metric("p2pd_scheduler_out_seconds") == 0
            hold = registry.hold(APP, digest_of(LAYER), 300_000)
            async with asyncio.TaskGroup() as getting:
                for each in (first, second):
                    getting.create_task(each.get(BLOB))
                async with asyncio.timeout(PATIENCE_S):
                    while not await second.metric("p2pd_neighbours"):
                        pass
                    for wait in ("origin", "lease"):  # one asks the registry, the other one waits for it
                        while not sum([await each.metric(WAITED, on=wait) for each in (first, second)]):
                            pass
                hold.go.set()
    nobody = ["http://127.0.0.1:1"]
    async with node_at(tmp_path / "third", hub(registry), scheduler=nobody, scheduler_wait_s="0.01") as third:
        async with asyncio.timeout(PATIENCE_S):
            while not await third.metric("p2pd_scheduler_out_seconds"):
                pass
