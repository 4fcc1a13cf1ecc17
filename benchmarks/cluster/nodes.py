"""The stage of scenarios: hosts in namespaces, a real docker-registry, real clients, and p2pd at each host.

Rules:
1. A client is `benchmarks.cluster.pull`. It hashes the bytes, as runtimes do, and keeps none: a host of a real cluster
   has a disk of its own, and here all hosts share the memory of one machine. (A virtual machine often gets memory only
   at the first touch: writing each client's copy took a quarter of both cores.) All clients of a comparison are the
   same except for the address that they ask. Clients are started before the time is taken, as runtimes are.
2. The links of the registry and of each host have the scenario's rates. The scheduler's link has no limit, because the
   scheduler sends little.
3. Hosts join with a token, as users' hosts do, and exchange encrypted pieces. An open swarm has no certificates, and
   its pieces go in the clear.
4. A host that vanishes is killed at once together with its client, and closes nothing in order.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from benchmarks import load, programs
from benchmarks.cluster.image import TAG, Image, sent_bytes
from benchmarks.cluster.schedule import Action, Step
from benchmarks.command import UnmeasurableError
from benchmarks.namespaces import CORE, Network, NetworkHost, network
from benchmarks.procfs import cpu_s
from p2pd.demo.process import join_token, neutral_environ
from p2pd.simulation.scenario import Node, Scenario

REGISTRY_PORT: Final = 5000
PEER_PORT: Final = 65002
SCHEDULER_PORT: Final = 65003

CONNECTIONS: Final = 21
"""Connections whose median gives the latency between two hosts."""

QUIET_S: Final = 0.2
"""A log that has not grown for this time is complete."""


class Setting:
    """A network with the scenario's hosts and links, and a registry that has the image."""

    def __init__(self, scenario: Scenario, image: Image, directory: Path, net: Network, stack: ExitStack) -> None:
        self.scenario = scenario
        self.directory = directory
        self.image = image
        self.network = net
        self.origin = net.host(scenario.origin_bytes_per_s, scenario.origin_bytes_per_s)
        self.registry = self.origin.call(
            stack.enter_context,
            programs.docker_registry(
                directory / "origin",
                address=f"{self.origin.address}:{REGISTRY_PORT}",
                storage=image.storage,
                access_log=True,
            ),
        )
        self._sites = sorted({node.site for node in scenario.nodes})
        self._switches: set[str] = set()
        self.hosts = {node.name: self._host(node) for node in scenario.nodes}

    def _host(self, node: Node) -> NetworkHost:
        """Sites and racks get switches of their own if the scenario depends on them."""
        at = CORE
        for name, matters in ((node.site, len(self._sites) > 1), (node.rack, self.scenario.cut is not None)):
            if matters and name not in self._switches:
                self.network.switch(name, at=at)
                self._switches.add(name)
            at = name if matters else at
        return self.network.host(node.up_bytes_per_s, node.down_bytes_per_s, at=at)

    def site_bytes(self) -> dict[str, int]:
        """The bytes that came into each site so far, with headers; none if there is only one site."""
        return {name: self.network.entered_bytes(name) for name in self._sites if name in self._switches}

    def origin_bytes(self) -> int:
        """The bytes of the image's layers that the registry has sent so far. No request may be under way."""
        return sent_bytes(self.origin_log(), self.image)

    def origin_log(self) -> str:
        """The access log of the registry, once it grows no more."""
        size_bytes = -1
        while size_bytes != (size_bytes := self.registry.log.stat().st_size):
            time.sleep(QUIET_S)
        return self.registry.log.read_text()


@contextmanager
def setting(scenario: Scenario, image: Image, directory: Path) -> Iterator[Setting]:
    """A place in a new directory, which is removed at the end. Raises UnmeasurableError."""
    directory.mkdir()
    try:
        with network() as net, ExitStack() as stack:
            yield Setting(scenario, image, directory, net, stack)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def goodput(place: Setting) -> float:
    """The bytes per second of one plain transfer of a blob, from the registry to a host."""
    host, blob = next(iter(place.hosts.values())), place.image.probe
    return blob.size_bytes / host.call(load.curl_s, place.registry.blob_url(blob.digest), blob)


def latency_s(place: Setting) -> float:
    """The one-way latency from host to host on idle links: half of the time of a connect."""

    def connect_s() -> float:
        started = time.perf_counter()
        with closing(http.client.HTTPConnection(place.registry.address)) as connection:
            connection.connect()
            return time.perf_counter() - started

    host = next(iter(place.hosts.values()))
    return statistics.median(host.call(connect_s) for _ in range(CONNECTIONS)) / 2


class Clients:
    """The hosts' clients, all of which ask one registry."""

    def __init__(self, place: Setting, address: str, stack: ExitStack) -> None:
        self._place = place
        self._address = address
        self._stack = stack
        self._ready: dict[str, tuple[programs.Program, BinaryIO]] = {}
        """Clients that wait for the order to pull, each with the FIFO that brings it."""
        self._pulling: dict[str, programs.Program] = {}

    def prepare(self, tag: str = TAG, names: Collection[str] | None = None) -> None:
        """Start the clients of these hosts (None: of all), which are to pull that tag. Raises UnmeasurableError."""
        hosts = {name: host for name, host in self._place.hosts.items() if names is None or name in names}
        starting = {name: host.start(self._client, name, tag) for name, host in hosts.items()}
        self._ready = {name: client.result() for name, client in starting.items()}

    def perform(self, step: Step) -> None:
        match step.action:
            case Action.BEGIN:
                self._begin(step.subject)
            case Action.VANISH:
                self._kill(step.subject)
            case Action.CUT:
                self._place.network.cut(step.subject)
            case Action.MEND:
                self._place.network.mend(step.subject)
            case Action.SCHEDULER_GOES | Action.SCHEDULER_COMES:
                pass

    def ended(self) -> list[str]:
        ended = []
        for name, client in self._pulling.items():
            if (code := client.process.poll()) is not None:
                if code != 0:
                    raise UnmeasurableError(f"the client of {name} failed: {client.log.read_text()[-500:]}")
                ended.append(name)
        for name in ended:
            del self._pulling[name]
        return ended

    def _source(self, _name: str) -> str:
        """The address that the host's client asks for the image."""
        return self._address

    def _client(self, name: str, tag: str) -> tuple[programs.Program, BinaryIO]:
        """Start a host's client, and wait until it reads its FIFO."""
        told = self._place.directory / f"{name}-{tag}.pull"
        os.mkfifo(told)
        words = [sys.executable, "-m", "benchmarks.cluster.pull", self._source(name), tag, str(told)]
        log = self._place.directory / f"{name}.log"
        client = self._stack.enter_context(programs.running("the client", words, "", log, neutral_environ()))
        return client, self._stack.enter_context(_fifo_to(client, told))

    def _begin(self, name: str) -> None:
        self._pulling[name], tell = self._ready.pop(name)
        with tell:
            tell.write(b"pull")

    def _kill(self, name: str) -> None:
        client = self._pulling.pop(name, None)
        if client is not None:
            _kill(client)


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of one node since its start, or of several nodes since some moment."""

    link_messages: int
    scheduler_messages: int
    reread_bytes: int
    cpu_s: float


class SwarmClients(Clients):
    """The hosts' clients, each of which asks the p2pd of its host; and a scheduler at a host of its own (rule 3)."""

    def __init__(
        self, place: Setting, stack: ExitStack, *, is_open: bool, more_flags: Mapping[str, str] | None = None
    ) -> None:
        """`more_flags` are for each node."""
        super().__init__(place, "", stack)
        self.more_flags = more_flags or {}
        self._scheduler_host = place.network.host()
        self._open: dict[str, str | None] = {"allow-open": None} if is_open else {}
        self._scheduler = self._start_scheduler()
        self._joining = self._open or {"join-file": str(self._token_file())}
        self._nodes = {node.name: self._start_node(node) for node in place.scenario.nodes}
        stack.callback(self._terminate)
        for name, serving in {
            name: place.hosts[name].start(_wait_until_connected, *node) for name, node in self._nodes.items()
        }.items():
            if (serving.result() is None) != is_open:
                raise UnmeasurableError(f"{name} has {'a' if is_open else 'no'} certificate")

    def perform(self, step: Step) -> None:
        super().perform(step)
        match step.action:
            case Action.VANISH:
                _kill(self._nodes.pop(step.subject)[0])
            case Action.SCHEDULER_GOES:
                _kill(self._scheduler)
            case Action.SCHEDULER_COMES:
                self._scheduler = self._start_scheduler()
            case _:
                pass

    def fill(self, bound_s: float) -> None:
        """Make the scenario's initial holders pull the image. Raises UnmeasurableError."""
        holding = {node.name for node in self._place.scenario.nodes if node.holds_image}
        for name in sorted(holding):
            self._begin(name)
        deadline = time.monotonic() + bound_s
        while holding:
            holding -= set(self.ended())
            if time.monotonic() > deadline:
                raise UnmeasurableError(f"not within {bound_s:.0f} s: {', '.join(sorted(holding))} hold the image")
            time.sleep(QUIET_S)

    def counts(self) -> dict[str, Counts]:
        """The counts of each running node."""
        counts = {}
        for name, (program, admin) in self._nodes.items():
            call = self._place.hosts[name].call
            said = call(programs.answer, admin, "/status")["swarm"]
            reread_bytes = call(programs.metric, admin, programs.REREAD)
            counts[name] = Counts(said["link_messages"], said["scheduler_messages"], reread_bytes, cpu_s(program.pid))
        return counts

    def _source(self, name: str) -> str:
        return self._nodes[name][0].address

    def _start_scheduler(self) -> programs.Program:
        listen = f"{self._scheduler_host.address}:{SCHEDULER_PORT}"
        running = programs.p2pd_scheduler(self._place.directory / "scheduler", listen, self._open)
        return self._scheduler_host.call(self._stack.enter_context, running)

    def _token_file(self) -> Path:
        """A new token of the scheduler, which makes its CA before it is ready."""
        self._scheduler_host.call(programs.wait_until_served, self._scheduler, "/readyz", [http.HTTPStatus.OK])
        (file := self._place.directory / "join-token").write_text(join_token(self._place.directory / "scheduler"))
        return file

    def _start_node(self, node: Node) -> tuple[programs.Program, str]:
        host = self._place.hosts[node.name]
        flags = {
            "peer": f"{host.address}:{PEER_PORT}",
            "scheduler": f"http{'' if self._open else 's'}://{self._scheduler_host.address}:{SCHEDULER_PORT}",
            "site": node.site,
            "rack": node.rack,
            **self.more_flags,
            **self._joining,
        }
        running = programs.p2pd(self._place.directory / node.name, self._place.registry, flags)
        return host.call(self._stack.enter_context, running)

    def _terminate(self) -> None:
        """Terminate all nodes at once: one after the other would take long."""
        for program, _ in self._nodes.values():
            program.process.terminate()


def counted_since(before: Mapping[str, Counts], now: Mapping[str, Counts]) -> Counts:
    """The sum over the nodes that still run. The counts of ended nodes are lost."""
    pairs = [(each, before[name]) for name, each in now.items()]
    return Counts(
        sum(each.link_messages - earlier.link_messages for each, earlier in pairs),
        sum(each.scheduler_messages - earlier.scheduler_messages for each, earlier in pairs),
        sum(each.reread_bytes - earlier.reread_bytes for each, earlier in pairs),
        sum(each.cpu_s - earlier.cpu_s for each, earlier in pairs),
    )


def _wait_until_connected(program: programs.Program, admin: str) -> float | None:
    """Returns the seconds for which the node's certificate is good; None without one. Raises UnmeasurableError."""
    programs.wait_until_served(program, "/v2/", (http.HTTPStatus.OK, http.HTTPStatus.UNAUTHORIZED))
    deadline = time.monotonic() + programs.START_BOUND_S
    while not (swarm := programs.answer(admin, "/status")["swarm"])["scheduler_connected"]:
        if time.monotonic() > deadline:
            raise UnmeasurableError(f"{program.name} found no scheduler: {program.log.read_text()[-500:]}")
        time.sleep(programs.POLL_INTERVAL_S)
    expires_s: float | None = swarm["certificate_expires_s"]
    return expires_s


def _fifo_to(program: programs.Program, path: Path) -> BinaryIO:
    """The FIFO at `path`, opened for writing as soon as the program reads it."""
    deadline = time.monotonic() + programs.START_BOUND_S
    while program.process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):  # ENXIO: the program does not read yet
            return os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0)
        time.sleep(programs.POLL_INTERVAL_S)
    raise UnmeasurableError(f"{program.name} did not come up: {program.log.read_text()[-500:]}")


def _kill(program: programs.Program) -> None:
    program.process.send_signal(signal.SIGKILL)
    program.process.wait()
