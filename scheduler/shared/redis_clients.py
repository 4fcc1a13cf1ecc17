"""Clients of Redis as the settings say, and the one seam at which the library's errors become ours.

Rules:
1. Every call ends within CALL_S: a Redis that hangs is one that is gone. Nothing is sent again by itself: a counter or
   a token would be counted twice.
2. All keys have one hash tag, so that they are in one slot of a cluster and one script may use several.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from scheduler.shared.errors import SharedStateError
from scheduler.shared.redis_url import RedisAt

_sync: Final[Any] = redis  # its Sentinel and its nodes of a cluster have no types
_async: Final[Any] = redis.asyncio

CALL_S: Final = 2.0
"""How long a call may take. Shorter than `live_list.GAP_S`."""

FULL: Final = "it has no room left (OOM): raise its maxmemory"


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """Which Redis, which keys in it, and the secret. `ca` is a file of PEM (None: the system's CAs)."""

    at: RedisAt
    prefix: str = "p2pd"
    password_file: Path | None = None
    ca: Path | None = None

    def key(self, name: str) -> str:
        return f"{{{self.prefix}}}:{name}"

    def options(self) -> dict[str, Any]:
        """What every connection is made with. Blocks. Raises SharedStateError."""
        options: dict[str, Any] = {
            "username": self.at.username or None,
            "password": self._password() or None,
            "socket_timeout": CALL_S,
            "socket_connect_timeout": CALL_S,
            "client_name": "p2pd",
        }
        if self.at.tls:
            options |= {"ssl": True, "ssl_ca_certs": str(self.ca) if self.ca else None}
        return options

    def _password(self) -> str:
        if self.password_file is None:
            return self.at.password
        try:
            return self.password_file.read_bytes()[:4096].decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SharedStateError(f"redis_password_file: {self.password_file} cannot be read: {error}") from None


def blocking_client(place: RedisPlace) -> Any:
    """A client for worker threads; any of them may use it. Raises SharedStateError."""
    options, at = place.options(), place.at
    with translated(place):
        if at.kind == "cluster":
            nodes = [_sync.cluster.ClusterNode(host, port) for host, port in at.hosts]
            return redis.RedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 0), **options)
        options |= {"db": at.db, "retry": Retry(NoBackoff(), 0)}
        if at.kind == "sentinel":
            sentinels = _sync.sentinel.Sentinel(at.hosts, sentinel_kwargs=_of_sentinels(options), **options)
            return sentinels.master_for(at.service)
        ((host, port),) = at.hosts
        return redis.Redis(host=host, port=port, **options)


def client(place: RedisPlace) -> Any:
    """A client for the event loop. Raises SharedStateError."""
    options, at = place.options(), place.at
    with translated(place):
        if at.kind == "cluster":
            nodes = [_async.cluster.ClusterNode(host, port) for host, port in at.hosts]
            return redis.asyncio.RedisCluster(startup_nodes=nodes, retry=AsyncRetry(NoBackoff(), 0), **options)
        options |= {"db": at.db, "retry": AsyncRetry(NoBackoff(), 0)}
        if at.kind == "sentinel":
            sentinels = _async.sentinel.Sentinel(at.hosts, sentinel_kwargs=_of_sentinels(options), **options)
            return sentinels.master_for(at.service)
        ((host, port),) = at.hosts
        return redis.asyncio.Redis(host=host, port=port, **options)


def facts_of(place: RedisPlace) -> dict[str, str]:
    """What it says of its memory and its disk; of a cluster, one of its nodes. Blocks. Raises SharedStateError."""
    opened = blocking_client(place)
    with translated(place):
        try:
            one_node = {"target_nodes": opened.get_random_node()} if place.at.kind == "cluster" else {}
            found = opened.info(**one_node)
        finally:
            opened.close()
    return {str(name): str(value) for name, value in found.items()}


async def close(opened: Any) -> None:
    """Close what `client` has made: with Sentinel, also the clients of the Sentinels, which the library leaves open."""
    manager = getattr(getattr(opened, "connection_pool", None), "sentinel_manager", None)
    await opened.aclose()
    for each in () if manager is None else manager.sentinels:
        await each.aclose()


def _of_sentinels(options: dict[str, Any]) -> dict[str, Any]:
    """Sentinels have no password, and the same TLS."""
    return {name: value for name, value in options.items() if name.startswith(("ssl", "socket"))}


@contextmanager
def translated(place: RedisPlace) -> Iterator[None]:
    """Errors of the library as SharedStateError."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError:
        raise SharedStateError(f"redis at {place.at} cannot be used: {FULL}", is_full=True) from None
    except (redis.RedisError, OSError, TimeoutError) as error:
        is_full = "OOM" in str(error)
        reason = FULL if is_full else str(error) or type(error).__name__
        raise SharedStateError(f"redis at {place.at} cannot be used: {reason}", is_full=is_full) from None
