"""`p2pd demo` as a whole: what it shows, and that nothing is left of it however it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from p2pd.demo.image import build_image
from p2pd.demo.run import DemoPlan, run_demo
from p2pd.demo.shutdown import EndedError, Shutdown, until_ended
from tests.support.registry_server import PATIENCE_S

NODES = 3
SIZE = "6MiB"


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    """The demonstration, with its files in `folder`, in a process group of its own as in a terminal."""
    command = [sys.executable, "-m", "p2pd", "demo", f"--nodes={NODES}", f"--size={SIZE}", *flags]
    # A proxy, or settings of the machine's own daemon, must not get in its way.
    environ = {**os.environ, "TMPDIR": str(folder), "P2PD_MAX_BYTES": "nonsense", "http_proxy": "http://127.0.0.1:1"}
    return subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


def processes_of(folder: Path) -> list[str]:
    """The command lines of processes that work in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
        if str(folder) in command:
            found.append(command)
    return found


def assert_nothing_is_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    assert processes_of(folder) == []


def test_the_registry_gives_one_copy(tmp_path: Path) -> None:
    with start(tmp_path, "--rate=1GiB", "--json") as demo:
        stdout, stderr = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, stderr) == (0, "")
    figures = json.loads(stdout)
    size_bytes = figures["image_bytes"]
    assert 0.95 * 6 * 2**20 < size_bytes <= 6 * 2**20
    assert figures["origin_copies"] == pytest.approx(1.0, abs=0.01)
    assert figures["again_origin_bytes"] == 0
    assert figures["strangers_measured"]
    assert figures["alone_s"] > 0
    assert figures["swarm_to_alone"] == pytest.approx(figures["swarm_s"] / figures["alone_s"], rel=0.1)
    assert [each["node"] for each in figures["swarm"]] == ["node 1", "node 2", "node 3"]
    assert [each["received_bytes"] for each in figures["swarm"]] == [size_bytes] * NODES
    assert [each["has_certificate"] for each in figures["swarm"]] == [True] * NODES
    from_origin = sum(each["origin_bytes"] for each in figures["swarm"])
    from_all = from_origin + sum(each["peer_bytes"] + each["cache_bytes"] for each in figures["swarm"])
    assert from_origin == pytest.approx(figures["origin_bytes"], rel=0.01)  # what nodes say and what the registry saw
    assert from_all == pytest.approx(NODES * size_bytes, rel=0.01)
    assert_nothing_is_left(tmp_path)


def test_what_is_seen_without_a_terminal() -> None:
    """Here of nodes for themselves, which would take too long, the figures are computed; it says so."""
    screen = io.StringIO()
    plan = DemoPlan(NODES, 6 * 2**20, rate_bytes_per_s=16 * 2**20, measured_up_to_s=0.1)
    figures = run_demo(plan, Console(file=screen, width=80), Shutdown())
    lines = screen.getvalue().splitlines()
    assert "\x1b" not in screen.getvalue()
    starts = ("The registry is a thread of", "one node alone", "(computed)", "3 nodes, a swarm", "node 1 again")
    assert "3 of its 3 nodes joined with a token" in " ".join(screen.getvalue().split())
    assert all(any(line.strip().startswith(start) for line in lines) for start in starts)
    assert all(len(line) <= 80 for line in lines)
    assert not figures["strangers_measured"]
    least_s = NODES * figures["image_bytes"] / plan.rate_bytes_per_s
    assert figures["strangers_s"] == pytest.approx(least_s, abs=0.001)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param(lambda demo: os.killpg(demo.pid, signal.SIGINT), 130, id="Ctrl-C"),
        pytest.param(lambda demo: demo.send_signal(signal.SIGTERM), 128 + signal.SIGTERM, id="SIGTERM"),
    ],
)
@pytest.mark.parametrize("after", ["The registry is", "one node alone"])
def test_nothing_is_left_when_it_is_ended(
    tmp_path: Path, end: Callable[[subprocess.Popen[str]], None], code: int, after: str
) -> None:
    with start(tmp_path, "--rate=4MiB") as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith(after):
                break
        end(demo)
        demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == code
    assert_nothing_is_left(tmp_path)


def test_signals_do_not_come_in_between() -> None:
    """Not even a second one: what ends the work is an error that it raises where it waits."""
    steps: list[str] = []

    def work(shutdown: Shutdown) -> None:
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
            shutdown.wait(PATIENCE_S)
        finally:
            steps.append("cleaned up")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        until_ended(work)
    assert ended.value.code in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert steps == ["cleaned up"]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_image_that_is_not_wanted_any_more(tmp_path: Path) -> None:
    shutdown = Shutdown()
    shutdown.ask(signal.SIGINT)
    with pytest.raises(EndedError):
        build_image(tmp_path, size_bytes=2**20, on_write=shutdown.check)
    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []


@pytest.mark.parametrize("flag", ["--nodes=1", "--size=lots", "--rate=fast"])
def test_wrong_flags(tmp_path: Path, flag: str) -> None:
    with start(tmp_path, flag) as demo:
        _, stderr = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 2
    assert stderr
    assert_nothing_is_left(tmp_path)
