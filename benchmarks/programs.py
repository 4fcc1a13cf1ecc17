"""Start and stop the real programs: docker-registry, nginx and p2pd.

Rules:
1. A program listens on loopback, on a port that was free a moment before, or at the given address. It keeps its files
   in the given directory.
2. A program is ended by its own process id, and waited for, whether the measure succeeds or fails. If this process is
   killed, the kernel ends its programs (PDEATHSIG: when the thread that started them is gone).
3. A program that does not start is an error with the last lines of its log.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.command import UnmeasurableError
from p2pd.demo.process import command, neutral_environ

PACKAGES = {
    "nginx": "nginx-light",
    "docker-registry": "docker-registry",
    "curl": "curl",
    "redis-server": "redis-server",
    "setpriv": "util-linux",
    "ip": "iproute2",
    "tc": "iproute2",
}
REPOSITORY = "bench/blobs"
REREAD = "p2pd_reread_bytes_total"
"""What p2pd has read back from its own files for their SHA-256, as pieces came out of order."""

ROOT = Path(__file__).parents[1]
"""The directory in which `python -m p2pd` and `python -m benchmarks.receive` work without an installation."""

START_BOUND_S = 120.0
STOP_BOUND_S = 40.0  # p2pd's shutdown_grace_s is 30
POLL_INTERVAL_S = 0.005


@dataclass(frozen=True, slots=True)
class Program:
    """A running program. It listens on `address` (HOST:PORT); `started` is `perf_counter()` at its exec."""

    name: str
    process: subprocess.Popen[bytes]
    address: str
    log: Path
    started: float

    @property
    def pid(self) -> int:
        return self.process.pid

    def blob_url(self, digest: str) -> str:
        return f"http://{self.address}/v2/{REPOSITORY}/blobs/{digest}"


def _which(name: str) -> str | None:
    """The path of a program. Debian's nginx is in /usr/sbin, which is not on every user's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def find(name: str) -> str:
    """The path of an installed program; raises UnmeasurableError with the Debian package to install."""
    path = _which(name)
    if path is None:
        raise UnmeasurableError(f"{name} is not installed: apt-get install {PACKAGES[name]}")
    return path


_given_ports: set[int] = set()


def free_port() -> int:
    """A loopback port that nobody uses, below the kernel's range for outgoing connections and for listeners that take
    any port (32768 and up), so that none of them takes it before the program that it is meant for. It is given once,
    and to no other process of this user as long as this one runs.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        if port in _given_ports or not _reserve(port):
            continue
        _given_ports.add(port)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _reserve(port: int) -> bool:
    """Returns whether no other process has been given the port: each locks the byte of that number in one file."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _reservations() -> int:
    """The file, which stays open: the kernel ends the locks of a process with it, or when it closes the file once."""
    path = Path(tempfile.gettempdir()) / f"p2pd-ports-{os.geteuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


def wait_until_served(program: Program, path: str, statuses: Sequence[int]) -> float:
    """Ask for `path` every 5 ms until one of `statuses` comes back; returns the seconds since exec."""
    while program.process.poll() is None:
        connection = http.client.HTTPConnection(program.address, timeout=START_BOUND_S)
        try:
            connection.request("GET", path)
            if connection.getresponse().status in statuses:
                return time.perf_counter() - program.started
        except (OSError, http.client.HTTPException):
            pass  # not up yet
        finally:
            connection.close()
        if time.perf_counter() - program.started > START_BOUND_S:
            break
        time.sleep(POLL_INTERVAL_S)
    state = "ended" if program.process.poll() is not None else f"did not answer within {START_BOUND_S:g} s"
    last_lines = " / ".join(program.log.read_text(errors="replace").splitlines()[-5:])
    raise UnmeasurableError(f"{program.name} {state}: {last_lines}")


def spawn(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a program, which the kernel ends with this process (rule 2). Its output is appended to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [find("setpriv"), "--pdeathsig", "TERM", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=environment,
            start_new_session=True,  # Ctrl-C signals only this process, which then ends its programs in order
        )


@contextmanager
def running(
    name: str, command: Sequence[str], address: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Run a program until the block ends. Its output is appended to `log`."""
    started = time.perf_counter()
    process = spawn(command, log, environment)
    try:
        yield Program(name, process, address, log, started)
    finally:
        process.terminate()
        try:
            process.wait(STOP_BOUND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def docker_registry(
    directory: Path,
    pull_through_from: Program | None = None,
    *,
    address: str | None = None,
    storage: Path | None = None,
    access_log: bool = False,
) -> Iterator[Program]:
    """docker-registry with its storage in `directory`, or in `storage`, which several may share if none is pushed to.

    With `pull_through_from` it is a cache of that registry. With `access_log` its log has a line for each answer.
    """
    directory.mkdir(parents=True, exist_ok=True)
    address = address or free_address()
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": not access_log}},
        "storage": {"filesystem": {"rootdirectory": str(storage or directory / "storage")}},
        "http": {"addr": address, "secret": "of no value"},
    }
    if pull_through_from is not None:
        config["proxy"] = {"remoteurl": f"http://{pull_through_from.address}"}
    config_file = directory / "config.yml"
    config_file.write_text(json.dumps(config))  # JSON is YAML
    command = [find("docker-registry"), "serve", str(config_file)]
    with running("docker-registry", command, address, directory / "log") as program:
        wait_until_served(program, "/v2/", [200])
        yield program


@contextmanager
def nginx(directory: Path, served: Path) -> Iterator[Program]:
    """nginx with Debian's settings (sendfile, tcp_nopush, a worker a core), over the files in `served`."""
    directory.mkdir(parents=True, exist_ok=True)
    address = free_address()
    user = "user root;" if os.geteuid() == 0 else ""  # only its owner can read the temporary directory
    spools = " ".join(
        f"{name}_temp_path {directory / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config_file = directory / "nginx.conf"
    config_file.write_text(f"""
        {user} worker_processes auto; daemon off; pid {directory}/pid; error_log stderr error;
        events {{ worker_connections 768; }}
        http {{
            sendfile on; tcp_nopush on; access_log off; types {{ }} {spools}
            server {{ listen {address}; root {served}; }}
        }}
    """)
    command = [find("nginx"), "-e", "stderr", "-p", str(directory), "-c", str(config_file)]
    with running("nginx", command, address, directory / "log") as program:
        wait_until_served(program, "/", [403, 404])
        yield program


@contextmanager
def p2pd(
    directory: Path, origin: Program, more: Mapping[str, str | None] | None = None
) -> Iterator[tuple[Program, str]]:
    """`p2pd run` with one upstream, no scrubber, and `more` flags (a switch has the value None), and its admin address.

    The program was just started and may not answer yet (`wait_until_served`).
    """
    directory.mkdir(parents=True, exist_ok=True)
    mirror, admin = free_address(), free_address()
    flags: dict[str, object] = {
        "data": directory / "data",
        "mirror": mirror,
        "admin": admin,
        "upstream": f"docker.io=http://{origin.address}",
        "min_free_bytes": "1GiB",  # that of `SPARE_BYTES`, on whatever disk
        "scrub_rate": "0",  # it is for once a day, and would begin a minute after the start, in a long measure
        **(more or {}),
    }
    with running("p2pd", command("run", flags), mirror, directory / "log", _environ()) as program:
        yield program, admin


@contextmanager
def libraries(directory: Path) -> Iterator[Program]:
    """What a node's libraries serve by themselves (`benchmarks.datapath.libraries`). It may not answer yet."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    words = (sys.executable, "-m", "benchmarks.datapath.libraries", str(port))
    with running("libraries", words, f"127.0.0.1:{port}", directory / "log", _environ()) as program:
        yield program


@contextmanager
def bare_cache(directory: Path, origin: str) -> Iterator[Program]:
    """A cache of the origin at HOST:PORT that decides nothing (`benchmarks.datapath.bare_cache`)."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    words = (sys.executable, "-m", "benchmarks.datapath.bare_cache", str(port), origin, str(directory))
    with running("bare cache", words, f"127.0.0.1:{port}", directory / "log", _environ()) as program:
        wait_until_served(program, "/v2/", (http.HTTPStatus.OK,))
        yield program


@contextmanager
def p2pd_scheduler(directory: Path, listen: str, more: Mapping[str, str | None]) -> Iterator[Program]:
    """`p2pd scheduler` with `more` flags, just started, with its CA in `directory`.

    The address of the program is its admin port.
    """
    directory.mkdir(parents=True, exist_ok=True)
    admin = free_address()
    words = command("scheduler", {"data": directory, "listen": listen, "admin": admin, **more})
    with running("p2pd scheduler", words, admin, directory / "log", _environ()) as program:
        yield program


def _environ() -> dict[str, str]:
    """p2pd as it is installed: with bytecode, which a checkout has once its first process has written it."""
    return {name: value for name, value in neutral_environ().items() if name != "PYTHONDONTWRITEBYTECODE"}


def answer(address: str, path: str) -> Any:
    """The JSON answer of an admin port (HOST:PORT). Raises OSError or HTTPException."""
    with closing(http.client.HTTPConnection(address, timeout=START_BOUND_S)) as connection:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


def metric(address: str, sample: str) -> int:
    """The value of one sample, such as `p2pd_reread_bytes_total`, at an admin port; 0 if there is none.

    Raises OSError or HTTPException.
    """
    with closing(http.client.HTTPConnection(address, timeout=START_BOUND_S)) as connection:
        connection.request("GET", "/metrics")
        found = re.search(rf"^{re.escape(sample)} (.+)$", connection.getresponse().read().decode(), re.MULTILINE)
    return 0 if found is None else round(float(found[1]))


def versions() -> dict[str, str]:
    """The versions of the installed programs: the first version-like word in each program's own output."""
    found = {}
    for name, flag in (
        ("nginx", "-v"),
        ("docker-registry", "--version"),
        ("curl", "--version"),
        ("ab", "-V"),
    ):
        if path := _which(name):
            done = subprocess.run([path, flag], capture_output=True, text=True, check=False)
            match = re.search(r"\d+(\.\d+)+[^\s,]*", done.stdout + done.stderr)
            found[name] = match[0] if match else "unknown"
    return found


def available_bytes() -> int:
    """The memory that programs may still take."""
    return int(Path("/proc/meminfo").read_text(encoding="utf-8").partition("MemAvailable:")[2].split()[0]) * 1024
