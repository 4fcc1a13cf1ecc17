"""Eight hosts with links of 200 Mbit/s pull one image at once, and the registry sends each byte once."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.namespaces import NetworkHost, network
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.geometry import piece_count, piece_length
from tests.real.containerd import Containerd
from tests.real.dockerd import Dockerd
from tests.real.image import Image
from tests.real.node import Node
from tests.real.origin import Origin, Request
from tests.real.paths import new_directory
from tests.real.programs import environment, run, wait_until
from tests.real.registry import Registry
from tests.real.skopeo import Skopeo, digests
from tests.real.web import get
from tests.support.ports import free_port

HOSTS: Final = 8
RATE: Final = 25e6
PORT: Final = 65002
SCHEDULER_PORT: Final = 65003

Client = Callable[[str], set[str]]
"""Pulls the image of a tag or digest (`:1`, `@sha256:…`); gives the digests of what it has then, as it checked them."""


@dataclass(frozen=True)
class Member:
    """A host with its p2pd, and a client that pulls through that."""

    host: NetworkHost
    node: Node
    client: Client


@dataclass(frozen=True)
class Swarm:
    members: list[Member]
    origin_host: NetworkHost
    origin: Origin

    def requests(self) -> list[Request]:
        return self.origin_host.call(self.origin.requests)


@pytest.fixture
def swarm(place: Path, storage: Path, registry: Registry, image: Image) -> Iterator[Swarm]:
    """The registry's content at one host, and the first of the others with the scheduler inside."""
    with network() as switched, ExitStack() as stack:
        origin_host, *hosts = (switched.host(RATE, RATE) for _ in range(HOSTS + 1))
        directory = new_directory(place)
        behind = origin_host.call(Registry, directory, storage)
        stack.callback(origin_host.call, behind.stop)
        origin = origin_host.call(Origin, directory, behind.url, address=origin_host.address)
        stack.callback(origin_host.call, origin.stop)
        makers = 2 * [dockerd] + 2 * [containerd] + 2 * [skopeo] + 2 * [p2pd_pull]
        nodes = [stack.enter_context(running_node(host, hosts[0], new_directory(place), origin)) for host in hosts]
        clients = [
            stack.enter_context(make(host, node, new_directory(place), image))
            for make, host, node in zip(makers, hosts, nodes, strict=True)
        ]
        members = [Member(*each) for each in zip(hosts, nodes, clients, strict=True)]
        for member in members:
            wait_until(partial(_is_connected, member), "it has found the scheduler")
        yield Swarm(members, origin_host, origin)


def test_all_hosts_pull_at_once_and_the_registry_sends_each_byte_once(swarm: Swarm, image: Image) -> None:
    pulls = [member.host.start(member.client, ":1") for member in swarm.members]
    assert [pull.result() for pull in pulls] == HOSTS * [image.digests]

    asked = [request for request in swarm.requests() if "/blobs/" in request.path]
    overdue = leases_overdue(swarm.members[0])
    for blob in image.blobs:
        heads = [request for request in asked if request.path.endswith(blob.digest) and request.method == "HEAD"]
        assert len(heads) <= HOSTS, "each host asks once whether this repository has what other hosts sent"
        requests = [request for request in asked if request.path.endswith(blob.digest) and request.method == "GET"]
        length = piece_length(blob.size_bytes)
        spans = sorted(span(request, blob.size_bytes) for request in requests)
        # New publishers are checked by a sample of their first pieces, a 64th, which two others fetch.
        samples = [(start, stop) for start, stop in spans if stop - start <= length // 64 and stop < blob.size_bytes]
        pieces = [each for each in spans if each not in samples]
        assert len(samples) <= 2 * HOSTS
        late_bytes = overdue * SchedulerSettings().lease_pieces * length
        assert sum(request.bytes_sent for request in requests) <= 1.02 * blob.size_bytes + late_bytes
        if not overdue:
            starts = [start for start, _ in pieces]
            assert starts == [0, *(stop for _, stop in pieces[:-1])], "a gap, or a byte asked twice"
            assert pieces[-1][1] == blob.size_bytes
            assert len(pieces) <= piece_count(blob.size_bytes, length)

    swarm.origin_host.call(swarm.origin.stop)
    *_, last = swarm.members
    sent_bytes = sum(status(member)["sent_bytes"] for member in swarm.members)
    for _ in range(2):  # from what the host holds; then from the others, for it holds nothing any more
        assert last.host.call(last.client, f"@{image.index.digest}") == image.digests
        where = ["--admin", last.node.admin, "--data", str(last.node.data)]
        remove = [sys.executable, "-m", "p2pd", "cache", "rm", *where, *image.digests]
        last.host.call(run, remove, environment(Path("/")))
    now_sent_bytes = sum(status(member)["sent_bytes"] for member in swarm.members)
    assert now_sent_bytes - sent_bytes >= image.weights.size_bytes


def span(request: Request, size_bytes: int) -> tuple[int, int]:
    """The bytes `[start, stop)` that a request asked for."""
    if not request.range:
        return 0, size_bytes
    first, _, last = request.range.removeprefix("bytes=").partition("-")
    return int(first), min(int(last or size_bytes - 1) + 1, size_bytes)


def _is_connected(member: Member) -> bool:
    return bool(status(member)["scheduler_connected"])


def status(member: Member) -> dict[str, Any]:
    """What p2pd says of its part in the swarm."""
    answer: dict[str, Any] = member.host.call(get, f"http://{member.node.admin}/status").json["swarm"]
    return answer


def leases_overdue(member: Member) -> int:
    """How many leases of its scheduler brought nothing in time: their pieces leave the registry twice."""
    text = member.host.call(get, f"http://{member.node.admin}/metrics").body.decode()
    return int(float(re.findall(r"^p2pd_scheduler_leases_overdue\S* (\S+)$", text, re.MULTILINE)[0]))


@contextmanager
def running_node(host: NetworkHost, scheduler_host: NetworkHost, directory: Path, origin: Origin) -> Iterator[Node]:
    scheduler = f"{scheduler_host.address}:{SCHEDULER_PORT}"
    role = {"listen": scheduler} if host is scheduler_host else {"scheduler": f"http://{scheduler}"}
    settings = {**role, "peer": f"{host.address}:{PORT}", "allow_open": "true"}
    node = host.call(Node, directory, [f"docker.io={origin.url}"], host.call(free_port), settings)
    try:
        yield node
    finally:
        host.call(node.stop)


@contextmanager
def dockerd(host: NetworkHost, node: Node, directory: Path, image: Image) -> Iterator[Client]:
    daemon = host.call(Dockerd, directory, node.url, "http://127.0.0.1:1")

    def pull(version: str) -> set[str]:
        """dockerd unpacks, and keeps no layer as it came: that it has one shows in the digest of its content."""
        daemon.pull(f"app{version}")
        found = daemon.inspect(f"app{version}")
        assert found["RepoDigests"] == [f"app@{image.index.digest}"]
        assert found["RootFS"]["Layers"] == list(image.diff_ids)
        return image.digests

    try:
        yield pull
    finally:
        host.call(daemon.remove_images)
        host.call(daemon.stop)


@contextmanager
def containerd(host: NetworkHost, node: Node, directory: Path, image: Image) -> Iterator[Client]:
    daemon = host.call(Containerd, directory)
    daemon.use_mirror("docker.io", node.url)

    def pull(version: str) -> set[str]:
        daemon.pull(f"docker.io/library/app{version}")
        return daemon.digests() - {image.index.digest}

    try:
        yield pull
    finally:
        host.call(daemon.stop)


@contextmanager
def skopeo(host: NetworkHost, node: Node, directory: Path, image: Image) -> Iterator[Client]:
    program = Skopeo(directory)
    yield lambda version: digests(program.copy(f"{node.mirror}/docker.io/library/app{version}"))


@contextmanager
def p2pd_pull(host: NetworkHost, node: Node, directory: Path, image: Image) -> Iterator[Client]:
    """It hashes every blob, and keeps none."""

    def pull(version: str) -> set[str]:
        command = [sys.executable, "-m", "p2pd", "pull", "--json", "--mirror", node.mirror, f"app{version}"]
        report = json.loads(run(command, environment(directory)))
        return {blob["digest"] for blob in report["blobs"] if blob["ok"]} - {image.index.digest}

    yield pull
