"""docs/quick-start.md, done: its five commands bring two nodes, and each pulls an image; the rest ends them.

The commands run as they stand there, one after the other, in a shell. Other ports and another home stand in their
place, Docker Hub is a registry on loopback, and pip finds what p2pd needs in the tests' own environment.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Final

from p2pd.demo.process import neutral_environ
from tests.support.images import content_of, make_image
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.test_deployments import with_free_ports

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "quick-start.md"
INSTALLED: Final = ("p2pd", "proxy", "peer", "scheduler", "pyproject.toml", "README.md", "LICENSE")
READY: Final = '"event": "ready"'
DONE: Final = "-- done --"


def commands() -> list[list[str]]:
    """The lines of each block of code. One that ends with a backslash goes on in the next."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [block.replace("\\\n", " ").splitlines() for block in blocks]


def copy_source(to: Path) -> None:
    """A checkout to install from: pip builds in it."""
    to.mkdir()
    for name in INSTALLED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, to / name)


class Shell:
    """A shell with job control, as a user has it. Its output and that of its jobs is in `log`."""

    def __init__(self, directory: Path, environ: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["bash", "--norc", "--noprofile"],
                cwd=directory,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def do(self, line: str) -> int:
        """Returns the exit code of the line."""
        before = self.log.count(DONE)
        self.say(line)
        self.say(f'echo "$? {DONE}"')
        self.wait_for(DONE, before + 1)
        return int(re.findall(rf"(\d+) {DONE}", self.log)[-1])

    def wait_for(self, text: str, times: int) -> None:
        until = time.monotonic() + PATIENCE_S
        while self.log.count(text) < times:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.05)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def end(self) -> None:
        """All jobs and the shell have ended. The jobs are those of the shell's session."""
        with contextlib.suppress(BrokenPipeError, OSError):
            self.say("kill $(jobs -p); wait; exit")
        try:
            self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def test_five_commands_bring_two_nodes_and_a_pull_through_both(tmp_path: Path, registry: ImageRegistry) -> None:
    layer = content_of("layer", 300_000)
    registry.push("library/alpine", "latest", make_image(layer, content_of("other", 5000)))
    copy_source(tmp_path / "checkout")
    five, more = commands()
    assert len(five) == 5
    # The ports that the commands leave as they are by default come last, so that they are replaced too.
    text, ports = with_free_ports("\n".join([*five, *more, "65001 65003 65004 65005"]))
    lines = text.splitlines()[:-1]
    at = {port: f"127.0.0.1:{free}" for port, free in ports.items()}

    environ = {
        **neutral_environ(),
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_IGNORE_INSTALLED": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's own way to say that there is to be none
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "DOCKER_CONFIG": str(tmp_path),
        "P2PD_CONFIG": os.devnull,
        "P2PD_MIN_FREE_BYTES": "0",
        "P2PD_UPSTREAM": f"docker.io={registry.url}",
    }
    shell = Shell(tmp_path / "checkout", environ, tmp_path / "log")
    try:
        shell.say("set -m")
        # Of a flag that is given twice the last one counts. `exec` leaves p2pd itself as the job.
        shell.say(f"""p2pd() {{
            local name=$1; shift
            case $name in
                scheduler) exec p2pd scheduler --listen {at["65003"]} --admin {at["65005"]} "$@" ;;
                run) exec p2pd run --mirror {at["65001"]} --admin {at["65004"]} "$@" ;;
                pull) command p2pd pull --mirror {at["65001"]} --admin {at["65004"]} "$@" ;;
                status) command p2pd status --admin {at["65004"]} "$@" ;;
                host) command p2pd host "$@" --admin {at["65005"]} ;;
                *) command p2pd $name "$@" ;;
            esac
        }}""")
        daemons = 0
        for line in lines:
            assert shell.do(line) == 0, shell.log
            if line.endswith("&"):
                daemons += 1
                shell.wait_for(READY, daemons)
        assert daemons == 3
    finally:
        shell.end()

    pulled = re.findall(r"this node took (\S+) from registries and (\S+) from neighbours", shell.log)
    assert [from_neighbours == "0B" for _, from_neighbours in pulled] == [True, False], shell.log
    assert shell.log.count(" connected ") == 2, "hosts that the scheduler lists"
    assert not (tmp_path / "p2pd-try").exists()
    assert sum(registry.sent[path] for path in registry.sent if "/blobs/" in path) < 2 * len(layer)
