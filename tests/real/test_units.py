"""The units in docker/, as systemd reads them: it complains of nothing, and they expose little."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.real.packages import PATH
from tests.support.registry_server import PATIENCE_S

DOCKER: Final = Path(__file__).parents[2] / "docker"
UNITS: Final = ("p2pd.service", "p2pd-scheduler.service")
EXPOSURE: Final = "16"
"""Tenths. What is left is what the services do: they reach the network, and run in the machine's root directory."""

pytestmark = pytest.mark.usefixtures("programs")


def systemd_analyze(*args: str | Path) -> tuple[int, str]:
    """Its exit code, and what it complains of."""
    program = shutil.which("systemd-analyze", path=PATH)
    assert program is not None
    done = subprocess.run(
        [program, *args], env={"PATH": PATH}, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    return done.returncode, done.stderr


@pytest.fixture
def machine(place: Path) -> Path:
    """The root of a machine that has the units of systemd, ours, and the programs that ours start."""
    shutil.copytree("/lib/systemd/system", place / "lib" / "systemd" / "system", symlinks=True)
    for program in ("opt/p2pd/bin/p2pd", "bin/sh"):
        (place / program).parent.mkdir(parents=True)
        shutil.copy("/bin/true", place / program)
    for unit in UNITS:
        shutil.copy(DOCKER / unit, place / "lib" / "systemd" / "system")
    return place


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_complains_of_nothing(machine: Path, unit: str) -> None:
    assert systemd_analyze("verify", "--man=no", f"--root={machine}", unit) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_little_is_exposed(unit: str) -> None:
    assert systemd_analyze("security", "--offline=yes", f"--threshold={EXPOSURE}", DOCKER / unit) == (0, "")
