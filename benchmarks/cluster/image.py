"""The image that a cluster pulls, in a registry's storage, and what registries say that they have sent of it.

Its layers are random bytes, which nothing on the way can make smaller, in the sizes of the scenario.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import programs
from benchmarks.cluster.pull import MANIFEST
from benchmarks.command import UnmeasurableError
from benchmarks.load import BenchmarkBlob
from benchmarks.namespaces import network
from benchmarks.testbed import SPARE_BYTES, push, push_random

TAG: Final = "1"

_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"

_SENT: Final = re.compile(rf'"GET /v2/{programs.REPOSITORY}/blobs/(\S+) HTTP/1\.1" 20[06] (\d+) ')
"""An answer in docker-registry's access log, which is in Apache's combined format: the digest, and the bytes sent."""


@dataclass(frozen=True, slots=True)
class Image:
    """`REPOSITORY:TAG` in `storage`, a docker-registry's. `probe` is a blob beside it, to measure a link with."""

    storage: Path
    layers: tuple[BenchmarkBlob, ...]
    probe: BenchmarkBlob


def make_image(directory: Path, sizes: Sequence[int], probe_bytes: int) -> Image:
    """Push it to a registry that runs for as long as this takes. Raises UnmeasurableError."""
    storage = directory / "storage"
    with network() as net:
        host = net.host()

        def push() -> Image:
            with programs.docker_registry(directory / "push", storage=storage) as registry:
                layers = tuple(push_random(registry, size) for size in sizes)
                image = Image(storage, layers, push_random(registry, probe_bytes))
                _push_manifest(registry, layers)
                return image

        return host.call(push)


def require_room(directory: Path, needed_bytes: int) -> None:
    """Raise UnmeasurableError if the disk has less, and what is left free beside."""
    needed_bytes += SPARE_BYTES
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < needed_bytes:
        raise UnmeasurableError(
            f"{directory} has {free_bytes / 2**30:.1f} GiB free, and {needed_bytes / 2**30:.1f} GiB"
            " are needed: give another --workdir, a smaller --size or fewer --nodes"
        )


def sent_bytes(access_log: str, image: Image) -> int:
    """Bytes of the layers that a docker-registry has sent, by its access log, whole or in part, to whomever."""
    digests = {layer.digest for layer in image.layers}
    return sum(int(count) for digest, count in _SENT.findall(access_log) if digest in digests)


def _push_manifest(registry: programs.Program, layers: Sequence[BenchmarkBlob]) -> None:
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(_CONFIG, push(registry, [config], len(config))),
        "layers": [_descriptor(_LAYER, layer) for layer in layers],
    }
    path, headers = f"/v2/{programs.REPOSITORY}/manifests/{TAG}", {"Content-Type": MANIFEST}
    with closing(http.client.HTTPConnection(registry.address)) as connection:
        connection.request("PUT", path, body=json.dumps(manifest).encode(), headers=headers)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.CREATED:
            raise UnmeasurableError(f"the registry answered {answer.status} to PUT {path}: {answer.read(500)!r}")


def _descriptor(media_type: str, blob: BenchmarkBlob) -> dict[str, object]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes}
