"""A real redis-server on a free port of loopback, in a directory of its own; and fixtures with it.

`REDIS_SERVER=/usr/bin/valkey-server` in the environment has the tests run that program in its place.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from scheduler.shared.redis_clients import RedisPlace
from scheduler.shared.redis_url import parse_redis_url
from tests.real import packages
from tests.support.ports import free_port
from tests.support.registry_server import PATIENCE_S

_prefixes: Final = itertools.count(1)

INSTEAD: Final = os.environ.get("REDIS_SERVER", "")


class RedisServer:
    """One process of redis-server, or of redis-sentinel. Data is kept in `directory` if `arguments` say so."""

    def __init__(self, directory: Path, *arguments: str, program: str = "redis-server", port: int = 0) -> None:
        directory.mkdir(exist_ok=True)
        self.directory: Final = directory
        self.port: Final = port or free_port()
        self._program: Final = program
        self._arguments: Final = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> Any:
        """For the test's own questions."""
        return redis.Redis(port=self.port, socket_timeout=PATIENCE_S)

    def start(self) -> None:
        """Returns once it answers."""
        binary = INSTEAD or shutil.which(self._program, path=packages.PATH)
        assert binary is not None
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", ""]
        if self._program == "redis-sentinel":
            options = ["--sentinel", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        log = (self.directory / "redis.log").open("ab")
        with log:
            self._process = subprocess.Popen([binary, *self._arguments, *options], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert time.monotonic() < deadline, (self.directory / "redis.log").read_text()
            time.sleep(0.02)

    def _answers(self) -> bool:
        """Whether it has read what it kept; one that wants a password has, too."""
        try:
            with self.client as asking:
                asking.ping()
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:  # also while it is loading
            return False
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It takes connections still, as the system does it, and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


def install(*files: Path) -> None:
    """redis-server is there, and these files of packages, or the test does not run; in CI it fails then."""
    programs = ("redis-server", "redis-sentinel")
    is_there = INSTEAD or all(shutil.which(each, path=packages.PATH) for each in programs)
    if is_there and all(each.exists() for each in files):
        return
    reason = packages.unsuitable()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(f"CI runs these tests, and this machine cannot: {reason}")
    if reason is not None:
        pytest.skip(reason)
    packages.install()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests that do it no harm. Each has keys of its own: `redis_place`."""
    install()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_place(shared_redis: RedisServer) -> RedisPlace:
    return RedisPlace(parse_redis_url(shared_redis.url), f"test{next(_prefixes)}")


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """One for a test that does it harm. It has an append-only file, as an operator's has."""
    install()
    server = RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always")
    server.start()
    yield server
    server.kill()
