"""containerd's own content store as a place where p2pd holds blobs: what is on the disk, and when it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from peer.oci.manifest import OCI_IMAGE, OCI_INDEX
from tests.real.containerd import Containerd
from tests.real.image import REPOSITORY, Image
from tests.real.node import Node, StartNode
from tests.real.origin import Origin
from tests.real.paths import new_directory
from tests.real.programs import wait_until
from tests.real.web import get
from tests.support.ports import free_port

REFERENCE: Final = "docker.io/library/app:1"
AT_MOST: Final = 1.02
"""Of an image's size, for all that is on the disk of it."""


def status(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = get(f"http://{node.admin}/status").json
    return found


def on_disk(*directories: Path) -> int:
    """In bytes, each inode once."""
    files = [file.stat() for each in directories for file in each.rglob("*") if file.is_file()]
    return sum({facts.st_ino: facts.st_blocks * 512 for facts in files}.values())


def adopted(node: Node) -> set[str]:
    return {row["digest"] for row in node.cache() if row["adopted"]}


def test_what_was_pulled_through_p2pd_is_on_the_disk_once_and_goes_with_containerd(
    containerd: Containerd, start_node: StartNode, origin: Origin, image: Image
) -> None:
    node = start_node(f"docker.io={origin.url}", adopt=str(containerd.content))
    containerd.pull(REFERENCE)
    wait_until(lambda: adopted(node) == containerd.digests(), "p2pd has given up its own files")
    places = (containerd.content / "blobs", node.data / "blobs", node.data / "adopted")
    wait_until(lambda: on_disk(*places) <= AT_MOST * sum(image.sizes.values()), "it is on the disk once")

    node.stop()
    node.start()
    wait_until(lambda: adopted(node) == containerd.digests(), "p2pd knows again what it had read")
    assert status(node)["adopted"]["read_bytes"] == 0

    containerd.remove_images()
    wait_until(lambda: node.cache() == [], "p2pd has let go")


def test_what_was_there_before_p2pd_helps_other_nodes_at_once(
    containerd: Containerd, start_node: StartNode, origin: Origin, image: Image, place: Path
) -> None:
    upstream = f"docker.io={origin.url}"
    containerd.pull(REFERENCE, containerd.hosts_for("docker.io", origin.url))
    origin.forget()
    listen = f"127.0.0.1:{free_port()}"
    old = {"adopt": str(containerd.content), "listen": listen, "allow_open": "true"}
    node = start_node(upstream, **old, peer=f"127.0.0.1:{free_port()}")
    wait_until(lambda: adopted(node) == containerd.digests(), "p2pd has read what containerd has")
    new = {"scheduler": f"http://{listen}", "allow_open": "true"}
    other = Node(new_directory(place), [upstream], None, new)
    try:
        wait_until(lambda: status(other)["swarm"]["scheduler_connected"], "there is a cluster")
        for kind, digests in (("manifests", {"1", image.manifest.digest}), ("blobs", set(image.sizes))):
            for digest in digests:
                url = f"{other.url}/v2/{REPOSITORY}/{kind}/{digest}"
                assert get(url, {"Accept": f"{OCI_INDEX}, {OCI_IMAGE}"}).status == 200
        assert status(other)["downloads"]["peer_bytes"] >= sum(image.sizes.values())
        assert [request for request in origin.requests() if request.method == "GET" and request.bytes_sent] == []
    finally:
        other.stop()
