"""`bare`: what the traffic of a swarm costs hosts that decide nothing, with the libraries that p2pd is built on.

Rules:
1. A host serves pieces and WebSockets with aiohttp, uvloop and aiofastnet, and asks with p2pd's own client. It takes
   each piece from the next of the others, hashes it twice, writes it, and tells NEWS others of it by a frame each.
2. That is what a host of p2pd does at the least (`benchmarks.cluster --open`, with as many such pieces): there is
   no scheduler, no choice, no refusal, no client, no check and no log. So p2pd's CPU time can come near to this one.
3. With `--encrypted` it also encrypts as a host of p2pd with certificates does, by the same code: links are TLS, and
   pieces go beside it, under a key that was told on the link (`benchmarks.cluster`).
4. Links have the rates of `cluster`. All hosts begin once all have links to all, and stop once all have all pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from benchmarks import programs
from benchmarks.arguments import bytes_per_s, positive, size, within
from benchmarks.bare.node import CREDENTIALS
from benchmarks.command import Command, Measure, UnmeasurableError
from benchmarks.namespaces import NetworkHost, network
from benchmarks.report import Figure
from scheduler.trust import certificates
from scheduler.trust.identity import PeerIdentity, Role

PORT: Final = 65002
LIFETIME_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class BareTestbed:
    """A file of random pieces, and what hosts are to do with it. `credentials`: the directory of those, to encrypt."""

    file: Path
    options: argparse.Namespace
    credentials: Path | None = None

    def play(self) -> list[dict[str, Any]]:
        """What each host said at its end. Raises UnmeasurableError."""
        with network() as net, ExitStack() as stack:
            rate = self.options.rate
            hosts = [net.host(rate, rate) for _ in range(self.options.nodes)]
            addresses = [f"{host.address}:{PORT}" for host in hosts]
            nodes = [stack.enter_context(self._node(host, own, addresses)) for own, host in enumerate(hosts)]
            for node in nodes:
                _heard(node)
            for node in nodes:  # one after the other: each dials those before it
                _go_on(node)
                _heard(node)
            for _ in range(2):
                for node in nodes:
                    _go_on(node)
                said = [_heard(node) for node in nodes]
        return [json.loads(each) for each in said]

    @contextmanager
    def _node(self, host: NetworkHost, own: int, addresses: list[str]) -> Iterator[subprocess.Popen[str]]:
        numbers = [str(number) for number in (self.options.piece_size, own, self.options.news)]
        credentials = str(self.credentials or "")
        words = [sys.executable, "-m", "benchmarks.bare.node", str(self.file), *numbers, credentials, *addresses]
        with host.call(_started, words) as node:
            try:
                yield node
            finally:
                node.kill()


def _started(words: list[str]) -> subprocess.Popen[str]:
    """In the network of the thread that calls."""
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=programs.ROOT)


def _go_on(node: subprocess.Popen[str]) -> None:
    assert node.stdin is not None
    node.stdin.write("\n")
    node.stdin.flush()


def _heard(node: subprocess.Popen[str]) -> str:
    assert node.stdout is not None
    line = node.stdout.readline()
    if not line:
        raise UnmeasurableError("a host ended early, see what it said above")
    return line


def bare(bed: BareTestbed) -> list[Figure]:
    runs = [bed.play() for _ in range(bed.options.runs)]
    means = {key: [_mean(run, key) for run in runs] for key in ("cpu_s", "loop_s", "heard")}
    limit_s = bed.options.pieces * bed.options.piece_size / bed.options.rate
    frames = {"frames_per_piece": means["heard"][0] / bed.options.pieces}
    return [
        Figure("cpu_s_per_node", means["cpu_s"], sides=frames),
        Figure("loop_s_per_node", means["loop_s"]),
        Figure("efficiency_last", [limit_s / max(each["took_s"] for each in run) for run in runs]),
    ]


def _mean(run: list[dict[str, Any]], key: str) -> float:
    return float(sum(each[key] for each in run)) / len(run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=within(2, 64), default=16, help="(default %(default)s)")
    parser.add_argument("--pieces", type=positive, default=320, help="(default %(default)s)")
    parser.add_argument("--piece-size", type=size, default="512KiB", help="(default %(default)s)")
    parser.add_argument(
        "--news", type=positive, default=9, help="others that are told of a piece (default %(default)s)"
    )
    parser.add_argument("--encrypted", action="store_true", help="links are TLS, and pieces are encrypted (rule 3)")
    parser.add_argument("--rate", type=bytes_per_s, default="100mbit", help="of each link (default %(default)s)")


@contextmanager
def open_testbed(options: argparse.Namespace) -> Iterator[BareTestbed]:
    with tempfile.TemporaryDirectory(prefix="p2pd-benchmarks-", dir=options.workdir) as directory:
        file = Path(directory) / "pieces"
        with file.open("wb") as stream:
            for _ in range(options.pieces):
                stream.write(os.urandom(options.piece_size))
        yield BareTestbed(file, options, make_credentials(Path(directory)) if options.encrypted else None)


def make_credentials(directory: Path) -> Path:
    """One certificate for all hosts, in files of `directory`: that of each is verified all the same."""
    now = certificates.moment(time.time())
    ca, key = certificates.make_ca(now), certificates.new_key()
    certificate = certificates.issue(ca, PeerIdentity(ca.cluster, Role.HOST, "bare"), key.public_key(), now, LIFETIME_S)
    made = (certificates.key_to_pem(key), certificates.to_pem(certificate), certificates.to_pem(ca.certificate))
    for name, pem in zip(CREDENTIALS, made, strict=True):
        (directory / name).write_bytes(pem)
    return directory


def versions() -> Mapping[str, str]:
    return {name: metadata.version(name) for name in ("aiofastnet", "aiohttp", "uvloop")}


COMMAND = Command(
    name="bare",
    summary="what the traffic of a swarm costs hosts that decide nothing",
    measures=(Measure(("cpu_s_per_node", "loop_s_per_node", "efficiency_last"), bare),),
    add_arguments=add_arguments,
    testbed=open_testbed,
    versions=versions,
)
