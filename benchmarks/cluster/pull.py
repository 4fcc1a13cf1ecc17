"""Pull an image as a container runtime does: `python -m benchmarks.cluster.pull ADDRESS TAG FILE`.

The client starts, like a runtime that waits for work, and pulls when a byte is written to the FIFO `FILE`: first the
manifest, then its layers, as many at a time as runtimes fetch. The SHA-256 of each layer is checked; no byte is kept.
Unless it gets the whole image, the client ends in an error.
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
    """The digests of the manifest's layers."""
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
            return  # the harness has ended without an order to pull
        for pulled in [pool.submit(pull_layer, address, digest) for digest in layers(address, tag)]:
            pulled.result()


if __name__ == "__main__":
    main(*sys.argv[1:])
