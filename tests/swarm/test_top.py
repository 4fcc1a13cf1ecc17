"""`p2pd top` beside real nodes: in a terminal of some size, and where there is none."""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import pytest

from p2pd.demo.process import command, neutral_environ
from tests.support.images import content_of
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import REPOSITORY, UPSTREAM
from tests.swarm.process import Process, started

LAYER: Final = content_of("layer", 3 << 20)

TOP: Final = [sys.executable, "-m", "p2pd", "top", f"--config={os.devnull}"]


@dataclass
class Running:
    """A scheduler and two nodes. The second has got a layer from the first, whose id is `giver`."""

    scheduler: Process
    giver: str
    getter: Process


@asynccontextmanager
async def running(directory: Path, registry: ImageRegistry) -> AsyncIterator[Running]:
    own = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    async with AsyncExitStack() as stack:
        scheduler = await started(stack, command("scheduler", {"data": directory / "scheduler", **own}))
        digest, nodes = registry.put_blob(REPOSITORY, LAYER), []
        for name in ("giver", "getter"):
            settings = {
                "data": directory / name,
                "mirror": "127.0.0.1:0",
                "admin": "127.0.0.1:0",
                "scheduler": f"http://{scheduler.at['listen']}",
                "upstream": f"{UPSTREAM}={registry.url}",
                "min_free_bytes": 0,
            }
            node = await started(stack, command("run", settings))
            nodes.append(node)
            await node.until_connected()
            assert (await node.blob(digest)).body == LAYER
        yield Running(scheduler, str((await nodes[0].swarm())["host"]), nodes[1])


class Top:
    """`p2pd top` in a terminal of its own."""

    def __init__(self, *words: str, columns: int = 80, lines: int = 24) -> None:
        self._own, self._its = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self._its)
        self._text, self._decoder = "", codecs.getincrementaldecoder("utf-8")()
        environ = {**neutral_environ(), "TERM": "unknown-to-anybody"}
        for name in ("COLUMNS", "LINES"):
            environ.pop(name, None)
        self.process = subprocess.Popen(
            [*TOP, "--every=0.2", *words],
            stdin=self._its,
            stdout=self._its,
            stderr=subprocess.PIPE,
            env=environ,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def screen(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """The next screen of which this holds, as lines."""
        give_up_at = time.monotonic() + PATIENCE_S
        frames: list[str] = []
        while True:
            assert time.monotonic() < give_up_at, f"no such screen; last: {frames[-1:]}"
            *frames, self._text = self._text.split("\x1b[J")
            for frame in frames:
                lines = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", frame).split("\r\n")
                if holds(lines):
                    return lines
            ready, _, _ = select.select([self._own], [], [], PATIENCE_S)
            assert ready, f"it is silent; last: {self._text[-2000:]!r}"
            self._text += self._decoder.decode(os.read(self._own, 65536))

    def press(self, key: bytes) -> None:
        os.write(self._own, key)

    def end(self) -> tuple[int, str]:
        """Its exit code and the rest that it wrote, once it has ended."""
        code = self.process.wait(PATIENCE_S)
        os.set_blocking(self._own, False)
        with suppress(BlockingIOError):
            self._text += self._decoder.decode(os.read(self._own, 65536))
        return code, self._text

    @property
    def is_as_before(self) -> bool:
        """Whether the terminal has the settings that it had."""
        return termios.tcgetattr(self._its) == self.before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        os.close(self._own)
        os.close(self._its)


def _take_terminal() -> None:
    """So that the new process hears of its terminal's size."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def has(text: str) -> Callable[[list[str]], bool]:
    return lambda lines: any(text in line for line in lines)


def in_a_terminal(here: Running) -> None:
    with Top(f"--admin={here.getter.at['admin']}") as top:
        lines = top.screen(has(here.giver))
        assert len(lines) == 24
        assert max(map(len, lines)) <= 80
        [row] = [line.split() for line in lines if line.startswith(here.giver)]
        assert row == [here.giver, "same", "-", "-", "3.0MiB", "0B"]
        assert lines[-1] == "q quits"
        assert not top.is_as_before
        top.resize(40, 10)
        small = top.screen(lambda lines: len(lines) == 10)
        assert max(map(len, small)) <= 40
        top.resize(200, 50)
        assert len(top.screen(lambda lines: len(lines) == 50)) == 50
        top.press(b"\x1b[A")
        top.screen(has(here.giver))
        top.press(b"q")
        code, rest = top.end()
        assert (code, top.is_as_before) == (0, True)
        assert rest.endswith("\x1b[?25h\x1b[?1049l")


def of_the_cluster(here: Running) -> None:
    with Top(f"--scheduler={here.scheduler.at['admin']}") as top:
        lines = top.screen(has(f"{UPSTREAM}/{REPOSITORY}"))
        assert has("2 hosts")(lines)
        [row] = [line.split() for line in lines if line.startswith(UPSTREAM)]
        assert row[:6] == [f"{UPSTREAM}/{REPOSITORY}", "2", "3.0MiB", "6.0MiB", "3.0MiB", "1.00"]
        top.process.send_signal(signal.SIGTERM)
        assert top.end()[0] == 128 + signal.SIGTERM
        assert top.is_as_before


def without_a_terminal(here: Running) -> None:
    def printed(*words: str) -> str:
        done = subprocess.run(
            [*TOP, "--every=0.2", *words], env=neutral_environ(), capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        return done.stdout

    assert here.giver in printed(f"--admin={here.getter.at['admin']}")
    assert UPSTREAM in printed(f"--scheduler={here.scheduler.at['admin']}")
    found = json.loads(printed(f"--scheduler={here.scheduler.at['admin']}", "--json"))
    assert found["cluster"]["hosts"] == 2


def while_the_daemon_goes(here: Running) -> None:
    with Top(f"--admin={here.getter.at['admin']}") as top:
        top.screen(has(here.giver))
        here.getter.daemon.process.terminate()
        lines = top.screen(has("!! no daemon answers"))
        assert has(here.giver)(lines), "what was known stays"
        top.press(b"q")
        assert top.end()[0] == 0


def test_beside_real_nodes(tmp_path: Path, registry: ImageRegistry) -> None:
    async def check() -> None:
        async with running(tmp_path, registry) as here:
            for part in (in_a_terminal, of_the_cluster, without_a_terminal, while_the_daemon_goes):
                await asyncio.to_thread(part, here)

    asyncio.run(check())


@pytest.mark.parametrize("words", [(), ("--scheduler=127.0.0.1:1",)], ids=["node", "scheduler"])
def test_where_no_daemon_is(words: tuple[str, ...]) -> None:
    with Top("--admin=127.0.0.1:1", *words) as top:
        code, _ = top.end()
        assert code == 1
        assert top.process.stderr is not None
        assert top.process.stderr.read().startswith(b"p2pd: no daemon answers at 127.0.0.1:1 ")
        assert top.is_as_before
