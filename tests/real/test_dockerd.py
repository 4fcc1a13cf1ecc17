"""dockerd with the classic image store, which asks p2pd as its mirror for docker.io."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from scheduler.protocol.geometry import piece_length
from tests.real.dockerd import Dockerd
from tests.real.image import Image
from tests.real.node import Node, StartNode
from tests.real.origin import Origin, Request, StartOrigin
from tests.real.programs import wait_until

MIB: Final = 1024 * 1024

CONNECTIONS_PER_BLOB: Final = 4


def test_pulls_cold_and_warm_and_the_image_runs(dockerd: Dockerd, node: Node, origin: Origin, image: Image) -> None:
    dockerd.pull("app:1")
    assert_pulled(dockerd, image)
    assert {digest: origin.bytes_sent(digest) for digest in image.sizes} == image.sizes
    assert dockerd.run_container("app:1", "echo", "hello") == "hello\n"

    dockerd.remove_images()
    origin.forget()
    dockerd.pull("app:1")
    assert_pulled(dockerd, image)
    assert origin.blob_requests() == []


def test_pull_goes_on_after_p2pd_is_killed(
    dockerd: Dockerd, start_node: StartNode, start_origin: StartOrigin, image: Image
) -> None:
    origin = start_origin(rate_bytes_s=2 * MIB)
    node = start_node(f"docker.io={origin.url}", connections_per_blob=str(CONNECTIONS_PER_BLOB))

    with ThreadPoolExecutor(1) as thread:
        pull = thread.submit(dockerd.pull, "app:1")
        # One look, and the kill right after it: what a busy machine does in between lands, too.
        rows = wait_until(lambda: landed(node, image, 4 * MIB), "an eighth of it has landed")
        node.kill()
        held = {blob.digest: rows.get(blob.digest, 0) for blob in image.layers}
        before = {blob.digest: origin.bytes_sent(blob.digest) for blob in image.layers}
        origin.forget()
        assert held[image.weights.digest] < image.weights.size_bytes, "killed too late: the blob was complete"
        node.start()
        assert node.held_bytes(image.weights.digest) >= held[image.weights.digest]
        pull.result()

    assert_pulled(dockerd, image)
    for blob in image.layers:
        missing_bytes = blob.size_bytes - held[blob.digest]
        again = origin.requests_for(blob.digest)
        assert sum(asked_bytes(request, blob.size_bytes) for request in again) <= missing_bytes, again
        # What was under way at the kill may be sent twice: on each connection, the piece that had not fully arrived,
        # and as much again in the sockets.
        in_flight_bytes = CONNECTIONS_PER_BLOB * 2 * piece_length(blob.size_bytes)
        assert before[blob.digest] + origin.bytes_sent(blob.digest) <= blob.size_bytes + in_flight_bytes


def landed(node: Node, image: Image, least_bytes: int) -> dict[str, int] | None:
    """What is held of each blob, once that much of the weights is."""
    held = {row["digest"]: int(row["held_bytes"]) for row in node.cache()}
    return held if held.get(image.weights.digest, 0) >= least_bytes else None


def asked_bytes(request: Request, size_bytes: int) -> int:
    """How many bytes of a blob a request asked for (`bytes=0-4194303`, `bytes=4194304-`, or everything)."""
    if not request.range:
        return size_bytes
    first, _, last = request.range.removeprefix("bytes=").partition("-")
    return min(int(last or size_bytes - 1), size_bytes - 1) - int(first) + 1


def assert_pulled(dockerd: Dockerd, image: Image) -> None:
    """dockerd has the image, under the digests that it was pushed with (it has verified each layer's content)."""
    found = dockerd.inspect("app:1")
    assert found["Id"] == image.config.digest
    assert found["RepoDigests"] == [f"app@{image.index.digest}"]
    assert found["RootFS"]["Layers"] == list(image.diff_ids)
