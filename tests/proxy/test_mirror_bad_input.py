"""What origins and clients do wrong: each ends in a clear error in the specification's form, within a bounded time.

Nothing wrong is ever served as complete, and who did nothing wrong is served all the same.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from pathlib import Path

import pytest

from peer.oci.manifest import OCI_IMAGE
from proxy.server import MAX_HEADER_BYTES
from scheduler.protocol.geometry import piece_length
from tests.support.client import Reply
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import HANG, PATIENCE_S, Answering, Rule, Seen

APP = "library/app"
LAYER = content_of("layer", 700_000)
LAYER_DIGEST = digest_of(LAYER)
BLOB = f"{APP}/blobs/{LAYER_DIGEST}"
IMAGE = make_image(LAYER)
PIECE = piece_length(len(LAYER))
NOWHERE = "docker.io=http://127.0.0.1:1"


def hub(registry: ImageRegistry) -> str:
    return f"docker.io={registry.url}"


def on_get(answering: Answering) -> Rule:
    """Answer GET so, and HEAD as ever."""
    return lambda seen: answering if seen.method == "GET" else None


class TestOriginIsGone:
    @asynchronous
    async def test_it_refuses_connections(self, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", NOWHERE) as node:
            paths = {
                f"{APP}/manifests/1.0": "MANIFEST_UNKNOWN",
                f"{APP}/manifests/{IMAGE.digest}": "MANIFEST_UNKNOWN",
                BLOB: "BLOB_UNKNOWN",
            }
            for reply, code in zip(await asyncio.gather(*map(node.get, paths)), paths.values(), strict=True):
                assert (reply.status, reply.code) == (404, code)
                assert "docker.io" in reply.message
            assert (await node.get("")).status == 200  # so that what is held can be had

    @pytest.mark.parametrize(
        "hangs",
        [
            {f"/v2/{APP}/manifests/1.0": HANG},
            {f"/v2/{APP}/manifests/{IMAGE.digest}": HANG},
            {f"/v2/{APP}/manifests/{IMAGE.digest}": Answering(200, IMAGE.manifest, sent_bytes=9, then="hang")},
        ],
        ids=["tag", "manifest", "half a manifest"],
    )
    @asynchronous
    async def test_it_hangs_on_a_manifest(
        self, registry: ImageRegistry, tmp_path: Path, hangs: dict[str, Answering]
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.rules.update(hangs)
        async with node_at(tmp_path / "store", hub(registry), answer_within_s=0.2) as node:
            reply = await node.get(f"{APP}/manifests/1.0")
            assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")
            assert "within 0.2 s" in reply.message

    @asynchronous
    async def test_one_that_hangs_does_not_keep_others_from_being_asked(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        with ImageRegistry() as hanging:
            hanging.rule = lambda _: HANG
            upstreams = (hub(registry), f"slow.example={hanging.url}")
            async with (
                node_at(tmp_path / "store", *upstreams, answer_within_s=PATIENCE_S) as node,
                asyncio.TaskGroup() as group,
            ):
                waiting = [
                    group.create_task(node.get(f"slow.example/app-{number}/manifests/1.0")) for number in range(40)
                ]
                assert await asyncio.to_thread(hanging.hanging.wait, PATIENCE_S)
                assert (await node.get(f"{APP}/manifests/1.0")).status == 200
                assert not any(task.done() for task in waiting)
                for task in waiting:
                    task.cancel()


class TestOriginBreaks:
    @asynchronous
    async def test_a_body_that_cannot_be_finished_is_short_and_can_be_resumed(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        """FIN and not RST: containerd resumes after the one, and fails after the other."""
        registry.push(APP, "1.0", IMAGE)
        registry.rules[f"/v2/{BLOB}"] = break_after(PIECE + 1000, then=Answering(404))
        async with node_at(tmp_path / "store", hub(registry)) as node:
            async with node.client() as client:
                reply = await client.ask("GET", f"/v2/{BLOB}")
                assert (reply.status, reply.end) == (200, "fin")
                assert reply.headers["content-length"] == str(len(LAYER))
                assert reply.body == LAYER[:PIECE]
            registry.rules.clear()
            registry.seen.clear()
            rest = await node.get(BLOB, {"Range": f"bytes={len(reply.body)}-"})
            assert (rest.status, rest.end) == (206, "whole")
            assert rest.body == LAYER[PIECE:]
            assert rest.headers["content-range"] == f"bytes {PIECE}-{len(LAYER) - 1}/{len(LAYER)}"
        asked = [seen.headers["range"] for seen in registry.seen if seen.method == "GET"]
        starts = [int(each.removeprefix("bytes=").partition("-")[0]) for each in asked]
        assert (min(starts), len(set(starts))) == (PIECE, len(starts))  # no verified piece is fetched again

    @asynchronous
    async def test_a_connection_that_breaks_is_nothing_that_a_client_sees(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.rules[f"/v2/{BLOB}"] = break_after(PIECE + 1000, then=None)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert (await node.get(BLOB)).body == LAYER

    @pytest.mark.parametrize(
        "sent",
        [
            LAYER[:-1] + bytes([LAYER[-1] ^ 1]),
            bytes([LAYER[0] ^ 1]) + LAYER[1:],
            LAYER[: PIECE + 5],  # fewer
            LAYER + b"more",
            b"a small one",
        ],
        ids=["last byte", "first byte", "fewer", "more", "small"],
    )
    @asynchronous
    async def test_other_bytes_than_the_digest(
        self, registry: ImageRegistry, tmp_path: Path, errors_logged: list[logging.LogRecord], sent: bytes
    ) -> None:
        registry.add_blob(APP, LAYER_DIGEST, sent)
        hold = registry.hold(APP, LAYER_DIGEST, len(sent) - 1)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            async with node.client() as client:
                await client.request("GET", f"/v2/{BLOB}")
                head = await client.head()
                hold.go.set()
                reply = await client.rest(head)
                assert (reply.status, reply.end) == (200, "fin")
                assert len(reply.body) < int(reply.headers["content-length"])
            assert await node.cached() == {}
            assert not [path for path in (tmp_path / "store" / "blobs").rglob("*") if path.is_file()]
            assert await node.metric("p2pd_verify_failures_total") == 1
            registry.add_blob(APP, LAYER_DIGEST, LAYER)
            assert (await node.get(BLOB)).body == LAYER
        assert LAYER_DIGEST in errors_logged.pop().getMessage()

    @asynchronous
    async def test_a_manifest_of_other_bytes(
        self, registry: ImageRegistry, tmp_path: Path, errors_logged: list[logging.LogRecord]
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        other = Answering(200, IMAGE.manifest.replace(b"linux", b"minix") + b" ", {"Content-Type": OCI_IMAGE})
        registry.rules[f"/v2/{APP}/manifests/{IMAGE.digest}"] = on_get(other)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for reference in ("1.0", IMAGE.digest):
                reply = await node.get(f"{APP}/manifests/{reference}")
                assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")
                assert IMAGE.digest in reply.message
                assert errors_logged
                errors_logged.clear()  # where HEAD told another length than GET there are two
            assert not await node.cached()

    @asynchronous
    async def test_a_manifest_that_is_too_large(self, registry: ImageRegistry, tmp_path: Path) -> None:
        huge = b" " * (4 * 1024 * 1024 + 1)
        digest = registry.put_manifest(APP, "huge", huge, OCI_IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            reply = await node.get(f"{APP}/manifests/{digest}")
            assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")
            assert "too many for a manifest" in reply.message


def break_after(sent_bytes: int, *, then: Answering | None) -> Rule:
    """The first body ends after so many bytes; what comes `then` for the rest (None: what the registry has)."""
    broken: list[Seen] = []

    def rule(seen: Seen) -> Answering | None:
        if seen.method == "HEAD":
            return None
        if broken:
            return then
        broken.append(seen)
        return Answering(200, LAYER, sent_bytes=sent_bytes, then="close")

    return rule


class TestRefusals:
    @asynchronous
    async def test_too_many_requests(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """The client waits as the origin asked, and reads the origin's own words."""
        registry.push(APP, "1.0", IMAGE)
        words = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}'
        limit = Answering(429, words, {"Retry-After": "600", "Content-Type": "application/json"})
        registry.rules[f"/v2/{APP}/manifests/1.0"] = limit
        registry.rules[f"/v2/{BLOB}"] = on_get(limit)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for path, body in ((f"{APP}/manifests/1.0", b"TOOMANYREQUESTS"), (BLOB, words)):
                reply = await node.get(path)
                assert (reply.status, reply.headers["retry-after"]) == (429, "600")
                assert reply.code == "TOOMANYREQUESTS"
                assert body in reply.body

    @asynchronous
    async def test_what_is_not_there(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        unknown = "sha256:" + "0" * 64
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for path, status, code in (
                (f"{APP}/manifests/.INVALID_MANIFEST_NAME", 404, "MANIFEST_UNKNOWN"),
                (f"{APP}/manifests/2.0", 404, "MANIFEST_UNKNOWN"),
                (f"{APP}/manifests/sha256:totallywrong", 404, "MANIFEST_UNKNOWN"),
                (f"{APP}/manifests/{unknown}", 404, "MANIFEST_UNKNOWN"),
                (f"{APP}/blobs/sha256:totallywrong", 400, "DIGEST_INVALID"),
                (f"{APP}/blobs/{unknown}", 404, "BLOB_UNKNOWN"),
                (f"a%2fb/blobs/{unknown}", 400, "NAME_INVALID"),
                (f"a/../b/blobs/{unknown}", 400, "NAME_INVALID"),
                (f"UPPER/blobs/{unknown}", 400, "NAME_INVALID"),
                ("_catalog", 404, "UNSUPPORTED"),
            ):
                for method in ("GET", "HEAD"):
                    reply = await node.ask(method, path)
                    assert reply.status == status, path
                    assert method == "HEAD" or reply.code == code


def is_oci_refusal(reply: Reply) -> bool:
    return 400 <= reply.status < 500 and bool(reply.code) and reply.end == "whole"


class TestWire:
    @asynchronous
    async def test_a_token_of_60_kib_reaches_the_origin(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        token = "Bearer " + "t" * (60 * 1024)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert (await node.get(f"{APP}/manifests/1.0", authorization=token)).status == 200
        assert registry.seen[0].headers["authorization"] == token

    @pytest.mark.parametrize(
        "request_text",
        [
            b"GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: " + b"t" * (MAX_HEADER_BYTES + 10) + b"\r\n\r\n",
            b"GET /v2/" + b"a" * (MAX_HEADER_BYTES + 10) + b"/tags/list HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % number for number in range(1000)) + b"\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS at a port without it
            b"GET\r\n\r\n",
            b"GET /v2/ HTTP/9.9\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
        ids=["header", "line", "headers", "TLS", "short", "version", "field", "length", "SSH", "HTTP/2"],
    )
    @asynchronous
    async def test_what_is_no_request(self, registry: ImageRegistry, tmp_path: Path, request_text: bytes) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node, node.client() as client:
            await client.send(request_text)
            assert is_oci_refusal(await client.rest(await client.head()))
            assert await client.wait_for_end() in ("fin", "reset")
            assert (await node.get("")).status == 200

    @pytest.mark.parametrize("value", [b"Bearer secret\x01", b"secret" + b"t" * MAX_HEADER_BYTES])
    @asynchronous
    async def test_a_credential_that_is_malformed_is_not_shown(
        self, registry: ImageRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture, value: bytes
    ) -> None:
        caplog.set_level(logging.DEBUG)
        async with node_at(tmp_path / "store", hub(registry)) as node, node.client() as client:
            await client.send(b"GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: " + value + b"\r\n\r\n")
            reply = await client.rest(await client.head())
        assert is_oci_refusal(reply)
        assert b"secret" not in reply.body
        assert "refused what is no request" in caplog.text
        assert "secret" not in caplog.text

    @pytest.mark.parametrize(
        "target", ["*", "http://docker.io/v2/", "/v2/?ns=%ff%fe", "//", "/v2/%ff/tags/list", "/?" * 99]
    )
    @asynchronous
    async def test_odd_targets(self, registry: ImageRegistry, tmp_path: Path, target: str) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node, node.client() as client:
            assert is_oci_refusal(await client.ask("GET", target))

    @asynchronous
    async def test_noise(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """Whatever comes, an answer is one of the specification's, and the next client is served."""
        registry.push(APP, "1.0", IMAGE)
        noise = random.Random(2)
        words = [
            b"GET ",
            b"/v2/",
            b"HTTP/1.1",
            b"\r\n",
            b"\r\n\r\n",
            b": ",
            b"Range",
            b"bytes=",
            b"-",
            b"%2e%2e/",
            b"\x00",
        ]
        words += [BLOB.encode(), b"Transfer-Encoding: chunked", b"Host", b"?ns=", b"\xff", b" "]
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for _ in range(150):
                async with node.client() as client:
                    await client.send(b"".join(noise.choices(words, k=noise.randint(1, 12))) + noise.randbytes(8))
                    client.shutdown()
                    try:
                        head = await client.head()
                    except (AssertionError, ConnectionResetError):
                        continue  # it hung up without a word
                    assert head.headers["docker-distribution-api-version"] == "registry/2.0"
            assert (await node.get(BLOB)).body == LAYER


class TestClients:
    BIG = content_of("big", 16 * 1024 * 1024)
    PATH = f"{APP}/blobs/{digest_of(BIG)}"

    @asynchronous
    async def test_a_client_that_goes_away_in_mid_blob(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.put_blob(APP, self.BIG)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for _ in ("cold", "warm"):
                async with node.client() as other:
                    await other.request("GET", f"/v2/{self.PATH}")
                    head = await other.head()
                    async with node.client() as client:
                        await client.request("GET", f"/v2/{self.PATH}")
                        await client.rest(await client.head(), first_bytes=1000)
                    assert (await other.rest(head)).body == self.BIG
                await node.until(lambda cached: not any(blob["in_use"] for blob in cached.values()))

    @asynchronous
    async def test_a_client_that_takes_nothing(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """It holds nobody up, and is given up after a while; until then the blob is in use."""
        registry.put_blob(APP, self.BIG)
        async with (
            node_at(tmp_path / "store", hub(registry), client_stall_s=4) as node,
            node.client(receive_buffer_bytes=4096) as client,
        ):
            await client.request("GET", f"/v2/{self.PATH}")
            await client.head()
            assert (await node.get(self.PATH)).body == self.BIG
            assert (await node.cached())[digest_of(self.BIG)]["in_use"]
            await node.until(lambda cached: not cached[digest_of(self.BIG)]["in_use"])

    @asynchronous
    async def test_one_byte_at_a_time(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node, node.client() as client:
            client.set_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in f"GET /v2/{APP}/manifests/1.0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode():
                await client.send(bytes([byte]))
            assert (await client.rest(await client.head())).body == IMAGE.manifest

    @asynchronous
    async def test_requests_one_after_the_other_without_waiting(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node, node.client() as client:
            for _ in range(3):
                await client.request("GET", f"/v2/{APP}/manifests/1.0")
                await client.request("GET", f"/v2/{BLOB}")
            for _ in range(3):
                assert (await client.rest(await client.head())).body == IMAGE.manifest
                assert (await client.rest(await client.head())).body == LAYER
