"""Where Redis is, as a URL. Parsed without the library, which is loaded with `--redis` alone.

    redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]                    one server, or a proxy
    redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT],…/SERVICE[/DB]  whichever server Sentinel says is the master
    redis+cluster://[USER[:PASSWORD]@]HOST[:PORT],…               a cluster, found by some of its nodes

`rediss` in place of `redis` is the same over TLS. USER may be empty: `redis://:PASSWORD@HOST`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote

FORMS: Final = (
    "redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB or redis+cluster://HOST:PORT,HOST:PORT; "
    "rediss for TLS"
)
PORT: Final = 6379
SENTINEL_PORT: Final = 26379

_URL: Final = re.compile(r"(rediss?)(?:\+(sentinel|cluster))?://(?:([^@/]*)@)?([^@/?#]+)(/[^?#]*)?")
_HOST: Final = re.compile(
    r"(?:(?P<name>[A-Za-z0-9._-]{1,253})|\[(?P<ip6>[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[0-9]{1,5}))?"
)
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RedisUrlError(ValueError):
    """The text is no such URL. It is not in the message: it may hold a password."""


@dataclass(frozen=True, slots=True)
class RedisAt:
    """Where Redis is. `str` is the URL without the user and the password, and `repr` shows none either."""

    kind: Literal["server", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    service: str = ""
    db: int = 0
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        scheme = ("rediss" if self.tls else "redis") + ("" if self.kind == "server" else f"+{self.kind}")
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        path = f"/{self.service}" * bool(self.service) + f"/{self.db}" * bool(self.db)
        return f"{scheme}://{hosts}{path}"


def parse_redis_url(text: str) -> RedisAt:
    """Raises RedisUrlError, which names the forms."""
    match = _URL.fullmatch(text)
    if match is None:
        raise RedisUrlError(f"expected {FORMS}")
    scheme, kind, user, hosts, path = match.groups()
    kind = kind or "server"
    found = tuple(_host(each, SENTINEL_PORT if kind == "sentinel" else PORT) for each in hosts.split(","))
    parts = [part for part in (path or "").split("/") if part]
    service = parts.pop(0) if kind == "sentinel" and parts else ""
    if kind == "server" and len(found) > 1:
        raise RedisUrlError("several hosts are Sentinels (redis+sentinel://) or a cluster (redis+cluster://)")
    if kind == "sentinel" and _SERVICE.fullmatch(service) is None:
        raise RedisUrlError("after the Sentinels comes the service's name, as in redis+sentinel://HOST:PORT/SERVICE")
    if kind == "cluster" and parts:
        raise RedisUrlError("a cluster has one database: nothing comes after the hosts")
    if len(parts) > 1 or (parts and re.fullmatch(r"[0-9]{1,5}", parts[0], re.ASCII) is None):
        raise RedisUrlError("the path ends with the number of a database, or is empty")
    name, _, password = (user or "").partition(":")
    return RedisAt(
        kind,  # type: ignore[arg-type] # by the pattern
        found,
        scheme == "rediss",
        service,
        int(parts[0]) if parts else 0,
        unquote(name),
        unquote(password),
    )


def _host(text: str, port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    number = int(match["port"] or port) if match is not None else 0
    if match is None or not 0 < number < 65536:
        raise RedisUrlError(f"expected {FORMS}")
    return match["name"] or match["ip6"], number
