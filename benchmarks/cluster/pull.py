"""Pull an image as a container runtime does: `python -m benchmarks.cluster.pull ADDRESS TAG FILE`.

It comes up, as a runtime has that waits for work, and pulls when something is written to the FIFO `FILE`: the manifest,
then its layers, so many at a time as runtimes take. The SHA-256 of each is compared as it comes; no byte is kept. With
anything but the whole image it ends in an error.
"""

from __future__ import annotations

import http.client
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from benchmarks.programs import REPOSITORY
from benchmarks.receive import receive
from p2pd.simulation.scenario import LAYERS_AT_A_TIME

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def layers(address: str, tag: str) -> list[str]:
    """The digests that the manifest names."""
    with closing(http.client.HTTPConnection(address)) as connection:
        connection.request("GET", f"/v2/{REPOSITORY}/manifests/{tag}", headers={"Accept": MANIFEST})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != http.HTTPStatus.OK:
            sys.exit(f"{address} gave status {answer.status} for the manifest: {text[:500]!r}")
        return [layer["digest"] for layer in json.loads(text)["layers"]]


def pull_layer(address: str, digest: str) -> None:
    with closing(http.client.HTTPConnection(address)) as connection:
        received = receive(connection, f"/v2/{REPOSITORY}/blobs/{digest}", len)
        if (received.status, received.digest) != (http.HTTPStatus.OK, digest):
            raise ValueError(f"{address} gave for {digest}: {received}")


def main(address: str, tag: str, file: str) -> None:
    with ThreadPoolExecutor(LAYERS_AT_A_TIME) as pool:
        if not Path(file).read_bytes():
            return  # who was to tell us has ended
        for pulled in [pool.submit(pull_layer, address, digest) for digest in layers(address, tag)]:
            pulled.result()


if __name__ == "__main__":
    main(*sys.argv[1:])
