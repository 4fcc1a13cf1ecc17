"""The cluster benchmark with real processes: it measures, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from benchmarks.programs import ROOT
from tests.real.programs import wait_until
from tests.support.registry_server import PATIENCE_S

COMMAND: Final = (sys.executable, "-m", "benchmarks", "cluster", "--json", "--nodes", "3", "--rate", "100mbit")
FIGURES: Final = ("hosts_with_certificate", "efficiency_last", "origin_copies", "messages_per_piece", "cpu_share")


def command(workdir: Path, *words: str, figures: Sequence[str] = FIGURES) -> list[str]:
    only = [word for name in figures for word in ("--only", name)]
    return [*COMMAND, "--workdir", str(workdir), *words, *only]


def measure(workdir: Path, *words: str, figures: Sequence[str] = FIGURES) -> Mapping[str, float]:
    """The figures. Nothing is left of what it made."""
    done = subprocess.run(
        command(workdir, *words, figures=figures), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(workdir.iterdir()) == []
    assert processes(workdir) == []
    return {name: figure["value"] for name, figure in json.loads(done.stdout)["figures"].items()}


def processes(workdir: Path) -> list[str]:
    """The command lines of those that were told of a place in this directory."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended
            continue
        if f"{workdir}/" in line:
            lines.append(line)
    return lines


@pytest.mark.parametrize("scenario", ["flash-crowd", "rolling-update", "many-layers"])
def test_a_small_cluster_is_measured(programs: None, place: Path, scenario: str) -> None:
    figures = measure(place, "--size", "4MiB", "--scenario", scenario)
    assert set(figures) == set(FIGURES)
    assert figures["hosts_with_certificate"] == 3
    assert 1.0 <= figures["origin_copies"] < 3.0, "on a busy machine leases are late, and given to another host too"
    assert 0.0 < figures["efficiency_last"] <= 1.1
    assert figures["messages_per_piece"] > 0.0


def test_what_breaks_in_the_cluster_is_survived(programs: None, place: Path) -> None:
    """The scheduler is killed and comes back, between a quarter and a half of a pull."""
    figures = measure(place, "--size", "16MiB", "--scenario", "scheduler-gone")
    assert figures["origin_copies"] < 3.0


def test_the_other_ways_are_measured_beside(programs: None, place: Path) -> None:
    names = ("hosts_with_certificate", "speedup_vs_registry", "speedup_vs_pull_through", "site_copies")
    figures = measure(place, "--open", "--size", "4MiB", "--sites", "2", figures=names)
    assert set(figures) == set(names)
    assert figures["hosts_with_certificate"] == 0
    assert figures["site_copies"] >= 1.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_ends_its_programs(programs: None, place: Path, number: signal.Signals) -> None:
    """In the middle of the play, which takes half a minute."""
    words = command(place, "--nodes", "2", "--size", "64MiB", "--rate", "20mbit")
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            wait_until(lambda: any(place.glob("*/p2pd/*/data/blobs/*/*")), "clients have begun")
            os.kill(running.pid, number)
            assert running.wait(PATIENCE_S) != 0
        finally:
            running.kill()
    wait_until(lambda: not processes(place), "all programs have ended")
    assert number == signal.SIGKILL or list(place.iterdir()) == []


def test_without_the_right_to_make_networks_it_says_so(programs: None, place: Path) -> None:
    bound = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    done = subprocess.run(
        [*bound, *command(place, "--size", "1MiB")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "run this as root" in done.stderr
