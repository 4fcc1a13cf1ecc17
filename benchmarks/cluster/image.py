"""The image that a cluster pulls, in a registry's storage, and the bytes of it that registries have sent by their logs.

The layers are random bytes, which cannot be compressed on the way, in the sizes of the scenario.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import programs
from benchmarks.command import UnmeasurableError
from benchmarks.load import BenchmarkBlob
from benchmarks.namespaces import network
from benchmarks.testbed import SPARE_BYTES, push, push_random
from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.oci.documents import CONFIG_TYPE, LAYER_TYPE, image_config, image_manifest
from peer.oci.manifest import OCI_IMAGE

TAG: Final = "1"

_GOT: Final = re.compile(r'^(\S+) .*?"GET \S+ HTTP/1\.1" 20[06] (\d+) ', re.MULTILINE)
"""The client's address and the sent bytes of an answer in that log."""

_SENT: Final = re.compile(rf'"GET /v2/{programs.REPOSITORY}/blobs/(\S+) HTTP/1\.1" 20[06] (\d+) ')
"""The digest and the sent bytes of an answer in docker-registry's access log (Apache's combined format)."""


@dataclass(frozen=True, slots=True)
class Image:
    """`REPOSITORY:TAG` in `storage`, a docker-registry's. `probe` is a further blob, to measure a link with."""

    storage: Path
    layers: tuple[BenchmarkBlob, ...]
    probe: BenchmarkBlob


def make_image(directory: Path, sizes: Sequence[int], probe_bytes: int) -> Image:
    """Push an image to a registry that runs only for the push. Raises UnmeasurableError."""
    return make_images(directory, {TAG: sizes}, probe_bytes)[TAG]


def make_images(directory: Path, sizes: Mapping[str, Sequence[int]], probe_bytes: int) -> dict[str, Image]:
    """Push an image for each tag, with layers of these sizes. Raises UnmeasurableError."""
    storage = directory / "storage"
    with network() as net:
        host = net.host()

        def push() -> dict[str, Image]:
            with programs.docker_registry(directory / "push", storage=storage) as registry:
                probe = push_random(registry, probe_bytes)
                images = {tag: Image(storage, _layers(registry, of_tag), probe) for tag, of_tag in sizes.items()}
                for tag, image in images.items():
                    _push_manifest(registry, tag, image.layers)
                return images

        return host.call(push)


def _layers(registry: programs.Program, sizes: Sequence[int]) -> tuple[BenchmarkBlob, ...]:
    return tuple(push_random(registry, size) for size in sizes)


def require_room(directory: Path, needed_bytes: int) -> None:
    """Raise UnmeasurableError if the disk has less free space than this and a reserve."""
    needed_bytes += SPARE_BYTES
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < needed_bytes:
        raise UnmeasurableError(
            f"{directory} has {free_bytes / 2**30:.1f} GiB free, and {needed_bytes / 2**30:.1f} GiB"
            " are needed: give another --workdir, a smaller --size or fewer --nodes"
        )


def sent_bytes(access_log: str, image: Image) -> int:
    """Bytes of the layers that a docker-registry has sent to all clients, by its access log."""
    digests = {layer.digest for layer in image.layers}
    return sum(int(count) for digest, count in _SENT.findall(access_log) if digest in digests)


def got_bytes(access_log: str, addresses: Collection[str]) -> int:
    """Bytes of all bodies, also of manifests, that a docker-registry has sent to these clients, by its access log."""
    return sum(int(count) for address, count in _GOT.findall(access_log) if address in addresses)


def _push_manifest(registry: programs.Program, tag: str, layers: Sequence[BenchmarkBlob]) -> None:
    config = json.dumps(image_config([layer.digest for layer in layers], config={})).encode()
    manifest = image_manifest(
        _descriptor(CONFIG_TYPE, push(registry, [config], len(config))),
        [_descriptor(LAYER_TYPE, layer) for layer in layers],
    )
    path, headers = f"/v2/{programs.REPOSITORY}/manifests/{tag}", {"Content-Type": OCI_IMAGE}
    with closing(http.client.HTTPConnection(registry.address)) as connection:
        connection.request("PUT", path, body=json.dumps(manifest).encode(), headers=headers)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.CREATED:
            raise UnmeasurableError(f"the registry answered {answer.status} to PUT {path}: {answer.read(500)!r}")


def _descriptor(media_type: str, blob: BenchmarkBlob) -> Descriptor:
    return Descriptor(media_type, Digest(blob.digest), blob.size_bytes)
