"""The shared parts of measures: a directory, an origin with random blobs, and p2pd in front of that origin.

Rules:
1. Each part is started or written when a measure first uses it. All parts are removed when the testbed ends.
2. The origin is docker-registry. Blobs are pushed over its API and stay; each measure uses as many as it needs.
3. With `origin_rate` the origin is at a host of its own, whose link the kernel limits (`benchmarks.namespaces`). The
   measures, p2pd and clients are at another host, whose link has no limit.
4. p2pd starts with an empty store for each measure, so a blob is cold until the measure pulls it.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks import programs
from benchmarks.command import UnmeasurableError
from benchmarks.load import BenchmarkBlob
from benchmarks.namespaces import NetworkHost, network
from p2pd.admin.secret import NAME, authorization
from peer.oci.digest import Digest

CHUNK_BYTES = 2**20
REGISTRY_PORT = 5000
ORIGIN_FILES = "origin/storage/docker"
"""Where the origin keeps its files, below the testbed's directory."""
FORGET_BOUND_S = 60.0
SPARE_BYTES = 3 * 2**30
"""Room beside the blobs: the output of two transfers, and the 1 GiB that p2pd leaves free (`min_free_bytes`)."""


@dataclass(frozen=True, slots=True)
class Subject:
    """p2pd under measurement."""

    program: programs.Program
    admin: str
    data: Path

    @property
    def pid(self) -> int:
        return self.program.pid

    def blob_url(self, blob: BenchmarkBlob) -> str:
        return self.program.blob_url(blob.digest)

    def wait_until_serving(self) -> float:
        """Wait until the mirror answers /v2/; returns the seconds since p2pd's exec."""
        return programs.wait_until_served(self.program, "/v2/", (http.HTTPStatus.OK, http.HTTPStatus.UNAUTHORIZED))

    def secret(self) -> dict[str, str]:
        """The header that shows the secret of the admin port."""
        return {"Authorization": authorization((self.data / NAME).read_text().splitlines()[0])}

    def forget(self, blob: BenchmarkBlob) -> None:
        """Remove a blob from p2pd's store. The blob may be in use for a moment after a client has all of it."""
        deadline = time.monotonic() + FORGET_BOUND_S
        while True:
            with closing(http.client.HTTPConnection(self.admin)) as connection:
                connection.request("DELETE", f"/cache/{blob.digest}", headers=self.secret())
                status = connection.getresponse().status
            if status == http.HTTPStatus.OK:
                return
            if status != http.HTTPStatus.CONFLICT or time.monotonic() > deadline:
                raise UnmeasurableError(f"p2pd did not remove {blob.digest}: status {status}")
            time.sleep(0.05)


class Testbed:
    """A testbed. `size_bytes` is the size of the large blobs; `runs` is the number of samples of each figure.

    `origin_rate` is the rate of the origin's link in bytes per second; None: the origin is on loopback.
    """

    def __init__(
        self, directory: Path, size_bytes: int, runs: int, stack: ExitStack, origin_rate: float | None
    ) -> None:
        self.directory = directory
        self.size_bytes = size_bytes
        self.runs = runs
        self.origin_rate = origin_rate
        self._origin_host = None if origin_rate is None else _apart(stack, origin_rate)
        self.output = directory / "output"
        self._stack = stack
        self._blobs: dict[int, list[BenchmarkBlob]] = {}

    @cached_property
    def origin(self) -> programs.Program:
        directory = self.directory / "origin"
        if self._origin_host is None:
            return self._stack.enter_context(programs.docker_registry(directory))
        running = programs.docker_registry(directory, address=f"{self._origin_host.address}:{REGISTRY_PORT}")
        return self._origin_host.call(self._stack.enter_context, running)

    def blobs(self, count: int, size_bytes: int) -> list[BenchmarkBlob]:
        """`count` different blobs at the origin, made at the first call, and written to disk at the return."""
        made = self._blobs.setdefault(size_bytes, [])
        missing = count - len(made)
        needed_bytes = (max(missing, 0) + count) * size_bytes + SPARE_BYTES  # at the origin and in p2pd's store
        free_bytes = shutil.disk_usage(self.directory).free
        if free_bytes < needed_bytes:
            raise UnmeasurableError(
                f"{self.directory} has {free_bytes / 2**30:.1f} GiB free, and {needed_bytes / 2**30:.1f} GiB"
                " are needed: give another --workdir or a smaller --size"
            )
        made += [push_random(self.origin, size_bytes) for _ in range(missing)]
        if missing > 0:
            os.sync()
        return made[:count]

    def read_at_origin(self, blob: BenchmarkBlob) -> None:
        """Have a blob's file at the origin in the page cache. A GET would take the time of the origin's link."""
        with (self.directory / ORIGIN_FILES / _stored(blob)).open("rb", buffering=0) as file:
            while file.read(CHUNK_BYTES):
                pass

    @contextmanager
    def p2pd_starting(self) -> Iterator[Subject]:
        """A newly started p2pd with an empty store, which may not answer yet."""
        directory = self.directory / "p2pd"
        try:
            with programs.p2pd(directory, self.origin) as (program, admin):
                yield Subject(program, admin, directory / "data")
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @contextmanager
    def p2pd(self) -> Iterator[Subject]:
        """A serving p2pd with an empty store."""
        with self.p2pd_starting() as subject:
            subject.wait_until_serving()
            yield subject

    @contextmanager
    def pull_through(self) -> Iterator[programs.Program]:
        """docker-registry as an empty pull-through cache of the origin."""
        directory = self.directory / "pull-through"
        try:
            with programs.docker_registry(directory, pull_through_from=self.origin) as program:
                yield program
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @contextmanager
    def bare_cache(self) -> Iterator[programs.Program]:
        """A cache of the origin that decides nothing."""
        directory = self.directory / "bare-cache"
        try:
            with programs.bare_cache(directory, self.origin.address) as program:
                yield program
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @contextmanager
    def nginx(self) -> Iterator[programs.Program]:
        """An nginx over the origin's own files."""
        with programs.nginx(self.directory / "nginx", self.directory / ORIGIN_FILES) as program:
            yield program


def stored_url(nginx: programs.Program, blob: BenchmarkBlob) -> str:
    """The URL of a blob at an nginx over the origin's own files."""
    return f"http://{nginx.address}/{_stored(blob)}"


def _stored(blob: BenchmarkBlob) -> str:
    """The path of a blob's file in docker-registry's storage layout, version 2."""
    hexadecimal = Digest(blob.digest).hex
    return f"registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"


@contextmanager
def testbed(size_bytes: int, runs: int, below: Path | None, origin_rate: float | None) -> Iterator[Testbed]:
    """A testbed in a temporary directory below `below` (where temporary files go, if it is None).

    `origin_rate` is the rate of the origin's link in bytes per second; None: the origin is on loopback. Raises
    UnmeasurableError if the link cannot be limited.
    """
    with tempfile.TemporaryDirectory(prefix="p2pd-benchmarks-", dir=below) as directory, ExitStack() as stack:
        yield Testbed(Path(directory), size_bytes, runs, stack, origin_rate)


def _apart(stack: ExitStack, origin_rate: float) -> NetworkHost:
    """A host for the origin, which sends at this rate. This process is at another host until the stack is closed."""
    net = stack.enter_context(network())
    origin_host = net.host(up=origin_rate)
    stack.enter_context(net.host().entered())
    return origin_host


def push_random(origin: programs.Program, size_bytes: int) -> BenchmarkBlob:
    """Push a blob of random bytes."""
    return push(origin, random_chunks(size_bytes), size_bytes)


def random_chunks(size_bytes: int) -> Iterator[bytes]:
    """So many random bytes. AES makes them in a twentieth of the time of `os.urandom`, 5 s of a core for each GiB."""
    random = Cipher(algorithms.AES(os.urandom(16)), modes.CTR(os.urandom(16))).encryptor()
    zeros = bytes(CHUNK_BYTES)
    for start in range(0, size_bytes, CHUNK_BYTES):
        yield random.update(zeros[: size_bytes - start])


def push(origin: programs.Program, chunks: Iterable[bytes], size_bytes: int) -> BenchmarkBlob:
    """Push a blob in three requests: POST opens an upload, PATCH sends the bytes, PUT names the digest."""
    sha256 = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in chunks:
            sha256.update(chunk)
            yield chunk

    with closing(http.client.HTTPConnection(origin.address)) as connection:
        location = _pushed(connection, "POST", f"/v2/{programs.REPOSITORY}/blobs/uploads/", b"", 0)
        location = _pushed(connection, "PATCH", location, hashed(), size_bytes)
        digest = Digest.from_raw(sha256.digest())
        _pushed(connection, "PUT", f"{location}&digest={digest}", b"", 0)
    return BenchmarkBlob(digest, size_bytes)


def _pushed(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | Iterator[bytes],
    size_bytes: int,
) -> str:
    """Send one request of an upload; returns the Location for the next one (path and query)."""
    headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read(500).decode(errors="replace")
    if answer.status not in (http.HTTPStatus.CREATED, http.HTTPStatus.ACCEPTED):
        raise UnmeasurableError(f"the origin answered {answer.status} to {method} {path}: {text}")
    location = urlsplit(answer.getheader("Location", ""))
    return f"{location.path}?{location.query}"
