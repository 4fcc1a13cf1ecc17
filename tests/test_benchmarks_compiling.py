"""Large simulations run compiled: by the same code, to the same figures."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

from benchmarks.compiling import simulating
from benchmarks.suite import SimulationRun, simulate
from p2pd.simulation import cluster

RUN = SimulationRun(nodes=12, pieces=16)


def where() -> str:
    """The file that this process has the simulator from."""
    return cluster.__file__


def figures(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "wall_s"}


def test_it_comes_to_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYPYC_OPT_LEVEL", "0")  # the C is the same, and compiled sooner
    with simulating(1) as processes:
        compiled, file = processes.submit(simulate, RUN).result(), processes.submit(where).result()
        assert processes.submit(os.getenv, "PYTHONMALLOC").result() == "malloc"
        assert os.getenv("PYTHONMALLOC") != "malloc", "whatever starts meanwhile would have it too"
    assert figures(compiled) == figures(simulate(RUN))
    if shutil.which("cc") or shutil.which("gcc"):
        assert file != cluster.__file__, "it was interpreted"


def test_what_need_not_be_compiled_begins_at_once() -> None:
    with simulating(1, compiled=False) as processes:
        assert processes.submit(where).result() == cluster.__file__
        assert processes.submit(os.getenv, "PYTHONMALLOC").result() == "malloc"
