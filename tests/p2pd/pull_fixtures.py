"""What the tests of pulling share: an image of five layers, faults of the mirror, and an ear for a pull's progress."""

from __future__ import annotations

import base64
import threading
from dataclasses import replace

from p2pd.config.values import Address
from peer.oci.descriptor import Platform
from tests.support.images import Image, Index, content_of, digest_of, make_image
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering, Rule, Seen, demand_basic

UPSTREAM = "127.0.0.1:5000"
APP = "library/app"
IMAGE = f"{UPSTREAM}/{APP}:1"
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64", "v8")
LAYERS = [content_of(f"layer {number}", 300_000) for number in range(5)]
FIVE = make_image(*LAYERS)
DIGESTS = FIVE.layer_digests
TOKEN = "Bearer a-token"
USERNAME, PASSWORD = "user", "secret"


def address(registry: ImageRegistry) -> Address:
    return Address("127.0.0.1", registry.port)


def blob_path(digest: str) -> str:
    return f"/v2/{APP}/blobs/{digest}"


def names_of(image: Image | Index) -> set[str]:
    """The files that a layout has of it, below `blobs/sha256`."""
    digests = {digest_of(blob) for blob in image.blobs} if isinstance(image, Image) else set()
    children = image.children if isinstance(image, Index) else ()
    own = {digest.removeprefix("sha256:") for digest in {image.digest, *digests}}
    return own.union(*map(names_of, children))


def cut_after(registry: ImageRegistry, count: int) -> Rule:
    """The right answer, of which `count` bytes come until the connection ends."""

    def rule(seen: Seen) -> Answering:
        return replace(registry.blob(seen), sent_bytes=count, then="close")

    return rule


def spoil(registry: ImageRegistry, digest: str) -> None:
    """Let the first byte of a blob be another."""
    content = registry.blobs[blob_path(digest)]
    registry.blobs[blob_path(digest)] = bytes([content[0] ^ 1]) + content[1:]


def demand(registry: ImageRegistry, scheme: str) -> None:
    """Let in only the user, by `Basic`, or by `Bearer` with a token that the user gets."""
    if scheme == "Bearer":
        pair = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        registry.tokens = {f"Basic {pair}": TOKEN}
        registry.members[APP] = {TOKEN}
    else:
        demanded, served = demand_basic(USERNAME, PASSWORD), registry.rule
        registry.rule = lambda seen: demanded(seen) or served(seen)


class Recorder:
    """A `PullProgress` that remembers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.layers: dict[str, tuple[int, str]] = {}
        self.counts: dict[str, int] = {}
        self.verdicts: dict[str, bool] = {}

    def on_layer(self, digest: str, size_bytes: int, media_type: str) -> None:
        with self._lock:
            self.layers[digest] = (size_bytes, media_type)
            self.counts[digest] = 0

    def on_bytes(self, digest: str, count: int) -> None:
        with self._lock:
            self.counts[digest] += count

    def on_verdict(self, digest: str, ok: bool, seconds: float) -> None:
        assert seconds >= 0
        with self._lock:
            self.verdicts[digest] = ok
