"""A pull through two nodes is one trace, the client's. Whatever the collector does, spans alone are lost."""

from __future__ import annotations

import asyncio
import sys
from base64 import b64encode
from collections import Counter
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from p2pd.config.values import ConfigError
from p2pd.daemon.node import serve
from p2pd.tracing.node import MAX_UPLOADS, NodeTraces
from p2pd.tracing.spans import Recorder
from tests.support.client import Reply, ask
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, settings_for
from tests.support.registry import ANONYMOUS, ImageRegistry
from tests.support.registry_server import PATIENCE_S, Answering
from tests.swarm.cluster import MIB, REPOSITORY, UPSTREAM, Cluster, Host, cluster, until_true
from tests.swarm.collector import collecting

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CLIENT}-01"
ALIVE = {"traceparent": TRACEPARENT, "User-Agent": "containerd/2.1.0"}


async def pull(host: Host, path: str, headers: dict[str, str]) -> Reply:
    return await ask(host.mirror, "GET", f"/v2/{REPOSITORY}/{path}", headers)


@asynchronous
async def test_a_pull_through_two_nodes_is_one_trace(tmp_path: Path, registry: ImageRegistry) -> None:
    layer = content_of("layer", 20 * MIB)
    image = make_image(layer)
    registry.push(REPOSITORY, "latest", image)
    async with collecting() as collector, cluster(tmp_path, registry) as swarm:
        giver, taker = await swarm.add_many(2, traces=collector.url)
        unsampled = {"traceparent": TRACEPARENT[:-1] + "0"}
        assert (await pull(giver, f"blobs/{digest_of(layer)}", unsampled)).body == layer
        await linked(swarm)
        assert (await pull(taker, "manifests/latest", ALIVE)).status == 200
        assert (await pull(taker, f"blobs/{digest_of(layer)}", ALIVE)).body == layer
        await taker.stop()
        await giver.stop()

    spans = {span.id: span for span in collector.spans}
    assert {span.trace for span in spans.values()} == {TRACE}
    of_blob = next(span for span in collector.named("GET") if "/blobs/" in span.attributes["url.path"])
    assert of_blob.parent == CLIENT
    wanted = {"p2pd.runtime": "containerd", "p2pd.cache": "miss", "p2pd.upstream": UPSTREAM}
    assert wanted.items() <= of_blob.attributes.items()
    assert of_blob.attributes["p2pd.bytes"] == len(layer)
    assert of_blob.attributes["http.response.status_code"] == 200

    download = next(span for span in collector.named("download") if span.parent == of_blob.id)
    assert download.attributes["p2pd.digest"] == digest_of(layer)
    sources = {name: download.attributes[f"p2pd.bytes.{name}"] for name in ("origin", "neighbours")}
    assert sum(sources.values()) == download.attributes["p2pd.size_bytes"] == len(layer)
    assert sources["neighbours"] > 0
    neighbour = next(span for span in collector.named("neighbour host-1") if span.parent == download.id)
    assert neighbour.attributes["p2pd.bytes"] == sources["neighbours"]
    assert neighbour.attributes["p2pd.pieces"] == neighbour.attributes["p2pd.requests.done"] > 1
    given = next(span for span in collector.named("pieces") if span.parent == neighbour.id)
    assert (given.host, given.attributes["p2pd.receiver"]) == ("host-1", "host-2")
    assert given.attributes["p2pd.pieces"] >= neighbour.attributes["p2pd.pieces"]
    assert [span.parent for span in collector.named("seal") if span.parent == download.id] == [download.id]

    of_tag = next(span for span in collector.named("GET") if "/manifests/" in span.attributes["url.path"])
    asked = [span for span in collector.named(f"origin {UPSTREAM}") if span.parent == of_tag.id]
    assert [span.attributes["p2pd.request"] for span in asked] == [f"HEAD {REPOSITORY}/manifests/latest"]
    assert len(collector.spans) < 20  # and not one a piece
    assert not [seen for seen in registry.seen if "traceparent" in seen.headers]


@asynchronous
async def test_an_origin_gets_the_context_only_if_the_operator_says_so_and_no_other_server_does(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    content = content_of("layer", MIB)
    digest = registry.put_blob(REPOSITORY, content)
    registry.wants_token = True
    registry.tokens[f"Basic {b64encode(b'us:secret').decode()}"] = ANONYMOUS
    blob = f"/v2/{REPOSITORY}/blobs/{digest}"
    with ImageRegistry() as storage:
        storage.rules["/there"] = Answering(200, content)
        to_storage = Answering(307, b"", {"Location": f"{storage.url}/there"})
        registry.rules[blob] = lambda seen: to_storage if "authorization" in seen.headers else None
        async with collecting() as collector, cluster(tmp_path, registry) as swarm:
            (tmp_path / "password").write_text("secret")
            who = f"username=us;password_file={tmp_path / 'password'}"
            told = await swarm.add(traces=collector.url, upstream=[f"{UPSTREAM}={registry.url};trace=true;{who}"])
            assert (await pull(told, f"blobs/{digest}", ALIVE)).body == content
        assert [seen.headers.get("traceparent") for seen in storage.seen if seen.path == "/there"][:1] == [None]
    contexts = [(seen.path.partition("?")[0], seen.headers.get("traceparent", "")[:36]) for seen in registry.seen]
    assert (blob, TRACEPARENT[:36]) in contexts
    assert {context for path, context in contexts if path == "/token"} == {""}


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "00-" + "0" * 32 + f"-{CLIENT}-01"},
        {"traceparent": "ff" + TRACEPARENT[2:]},
        {"traceparent": TRACEPARENT + "-more"},
        {"traceparent": "x" * 60_000},
        {"traceparent": TRACEPARENT, "tracestate": "a=" + "b" * 50_000},
        {"traceparent": TRACEPARENT, "tracestate": ",,=,a=b,;;=;"},
        {"traceparent": "00-é" + TRACEPARENT[4:]},
    ],
)
@asynchronous
async def test_a_hostile_context_is_none(tmp_path: Path, registry: ImageRegistry, headers: dict[str, str]) -> None:
    content = content_of("layer", 1000)
    digest = registry.put_blob(REPOSITORY, content)
    async with collecting() as collector, cluster(tmp_path, registry) as swarm:
        host = await swarm.add(traces=collector.url)
        assert (await pull(host, f"blobs/{digest}", headers)).body == content
        for number in range(3):
            hostile = {"Range": "bytes=0-999", "traceparent": headers["traceparent"][:100], "P2PD-Host": f"h{number}"}
            assert (await ask(host.peer, "GET", f"/v2/swarm/blobs/{digest}", hostile)).status == 206
    (asked,) = collector.named("GET")
    assert asked.trace == (TRACE if "tracestate" in headers else asked.trace)
    assert asked.parent == (CLIENT if "tracestate" in headers else "")
    assert len(collector.named("pieces")) == ("tracestate" in headers)


@asynchronous
async def test_whatever_contexts_a_neighbour_invents_few_are_remembered() -> None:
    async with collecting() as collector:
        traces = NodeTraces(Recorder(collector.url, host="giver", share=0.0))
        for number in range(MAX_UPLOADS + 8):
            for _ in range(2):
                headers = {"traceparent": f"00-{number + 1:032x}-{CLIENT}-01"}
                traces.sent(headers, "x" * 10_000, digest_of(b"some"), 100)
        assert len(traces._uploads) == MAX_UPLOADS
        await asyncio.to_thread(traces.close)
    given = collector.named("pieces")
    assert len(given) == MAX_UPLOADS + 8
    assert {(span.attributes["p2pd.pieces"], span.attributes["p2pd.bytes"]) for span in given} == {(2, 200)}
    assert max(len(str(span.attributes["p2pd.receiver"])) for span in given) <= 256


@asynchronous
async def test_an_error_that_no_utf8_can_say_costs_no_other_span() -> None:
    async with collecting() as collector:
        recorder = Recorder(collector.url, host="host", share=1.0)
        for error in ("an origin said \udcff", ""):
            span = recorder.begin("GET", {}, {})
            assert span is not None
            span.end(error)
        await asyncio.to_thread(recorder.close)
    assert len(collector.named("GET")) == 2


@pytest.mark.parametrize("trouble", ["down", "slow", "refuses"])
@asynchronous
async def test_a_collector_that_fails_costs_spans_and_one_line(
    tmp_path: Path, registry: ImageRegistry, trouble: str
) -> None:
    contents = [content_of(f"layer {number}", 1000) for number in range(3)]
    digests = [registry.put_blob(REPOSITORY, content) for content in contents]
    async with collecting() as collector, cluster(tmp_path, registry) as swarm:
        collector.slow, collector.status = trouble == "slow", 400
        url = "http://127.0.0.1:9/v1/traces" if trouble == "down" else collector.url
        with capture_logs() as logs:
            host = await swarm.add(traces=url)
            for digest, content in zip(digests, contents, strict=True):
                assert (await pull(host, f"blobs/{digest}", ALIVE)).body == content
            async with asyncio.timeout(PATIENCE_S):  # a collector that never answers is not waited for
                await host.stop()
        lines = [line for line in logs if line.get("collector")]
        assert [line["log_level"] for line in lines] == ([] if trouble == "slow" else ["warning"])


@asynchronous
async def test_clients_without_a_context_are_traced_as_often_as_the_operator_says(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    digest = registry.put_blob(REPOSITORY, b"some")
    async with collecting() as collector, cluster(tmp_path, registry) as swarm:
        never = await swarm.add(traces=collector.url, trace_share="0%")
        always = await swarm.add(traces=collector.url)
        for host in (never, always):
            assert (await pull(host, f"blobs/{digest}", {})).status == 200
        await always.stop()
        await never.stop()
    assert Counter(span.host for span in collector.named("GET")) == {"host-2": 1}


async def linked(swarm: Cluster) -> None:
    """Wait until the scheduler knows of a host that has a blob."""
    await until_true(lambda: swarm.scheduler.core.statistics().members == 1)


@asynchronous
async def test_without_the_sdk_the_node_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "p2pd.tracing.spans", None)
    settings = settings_for(tmp_path, "docker.io=http://a", traces="http://127.0.0.1:4318")
    with pytest.raises(ConfigError, match=r"pip install 'p2pd\[tracing\]'"):
        async with serve(settings, list):
            pass
