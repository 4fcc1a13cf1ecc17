"""The doctor's seam to the world: the daemon and the upstreams over the network, the files, the disk, the clock.

Rules:
1. Every request ends within a bound.
2. A request without an answer is an UnreachableError with a reason for the operator. Any answer is an HttpReply, also a
   refusal.
3. Requests to this machine go direct. Requests to upstreams go through the proxies of the environment, like the
   daemon's.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from p2pd.config.settings import Settings
from p2pd.config.values import Address
from p2pd.configure.runtime import Reader
from p2pd.configure.tree import Disk
from peer.background.client import is_installed
from peer.errors import P2pdError

LOCAL_TIMEOUT_S: Final = 3.0
UPSTREAM_TIMEOUT_S: Final = 10.0
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""Bound on an answer. The metrics of a daemon, and dockerd's /info, are some ten KiB."""

_CERTIFICATE: Final = {
    9: "its certificate is not valid yet: is this machine's clock right?",
    10: "its certificate has expired: renew it there",
    18: "its certificate is self-signed: give the upstream ;ca=FILE with that certificate",
    19: "it is signed by an authority that this machine does not know: give the upstream ;ca=FILE",
    20: "it is signed by an authority that this machine does not know: give the upstream ;ca=FILE",
    62: "its certificate is for another name: write the URL with the name in the certificate",
    64: "its certificate is for another address: write the URL with the name in the certificate",
}
"""Advice by OpenSSL's error number (X509_V_ERR_*, openssl-verification-options(1))."""


class UnreachableError(P2pdError):
    """A request got no answer."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An answer of any status."""

    status: int
    body: bytes
    date_s: float | None = None
    """The time at which it was given, by the other's clock, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """A file system's size, and its free bytes."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Owner:
    """A directory's owner and permissions."""

    uid: int
    mode: int


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything that the checks read.

    `get`, `get_upstream` (URL, CA file), `ask_socket` (path of a Unix socket, target of the request) and `connect` (TCP
    alone) and `ask_redis` raise UnreachableError; `files` raises ConfigureError; `space` and `owner` return None for a
    missing path.
    """

    files: Reader
    get: Callable[[str], HttpReply]
    get_upstream: Callable[[str, Path | None], HttpReply]
    ask_socket: Callable[[str, str], HttpReply]
    connect: Callable[[Address], None]
    space: Callable[[Path], DiskSpace | None]
    owner: Callable[[Path], Owner | None]
    now_s: Callable[[], float]
    ask_redis: Callable[[Settings], Mapping[str, str]]
    has_libtorrent: Callable[[], bool] = is_installed


def real(root: Path) -> Environment:
    """This machine. With another `root` only the files below it are seen; sockets there belong to no daemon."""

    def below(path: Path) -> Path:
        return root / str(path.absolute()).lstrip("/")

    return Environment(
        files=Disk(root),
        get=get,
        get_upstream=get_upstream,
        ask_socket=lambda path, target: ask_socket(str(below(Path(path))), target),
        connect=connect,
        space=lambda path: space(below(path)),
        owner=lambda path: owner(below(path)),
        now_s=time.time,
        ask_redis=ask_redis,
    )


def ask_redis(settings: Settings) -> Mapping[str, str]:
    """What the Redis of these settings, which have one, says of its memory and its disk."""
    from p2pd.daemon.several import place_of
    from scheduler.shared.errors import SharedStateError
    from scheduler.shared.redis_clients import facts_of

    try:
        return facts_of(place_of(settings))
    except SharedStateError as error:
        raise UnreachableError(str(error)) from None


def get(url: str) -> HttpReply:
    """GET, without the proxies of the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return _open(opener, url, LOCAL_TIMEOUT_S)


def get_upstream(url: str, ca: Path | None) -> HttpReply:
    """GET, with TLS verified against the machine's authorities and `ca`."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as error:
            raise UnreachableError(f"its ca file {ca} cannot be used: {error.strerror or error}") from None
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    return _open(opener, url, UPSTREAM_TIMEOUT_S)


def _open(opener: urllib.request.OpenerDirector, url: str, timeout_s: float) -> HttpReply:
    try:
        with opener.open(url, timeout=timeout_s) as response:
            return HttpReply(response.status, response.read(MAX_BODY_BYTES), _date(response.headers["Date"]))
    except urllib.error.HTTPError as error:
        with error:
            return HttpReply(error.code, error.read(MAX_BODY_BYTES), _date(error.headers["Date"]))
    except urllib.error.URLError as error:
        raise UnreachableError(explain(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(explain(error)) from None


def _date(field: str | None) -> float | None:
    try:
        return parsedate_to_datetime(field).timestamp() if field else None
    except (ValueError, OverflowError):
        return None


def connect(address: Address) -> None:
    """Connect, and hang up: whether something listens there."""
    try:
        socket.create_connection((address.host, address.port), LOCAL_TIMEOUT_S).close()
    except OSError as error:
        raise UnreachableError(explain(error)) from None


def ask_socket(path: str, target: str) -> HttpReply:
    """GET `target` over the Unix socket `path`."""
    connection = http.client.HTTPConnection("localhost", timeout=LOCAL_TIMEOUT_S)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(LOCAL_TIMEOUT_S)
        connection.sock.connect(path)
        connection.request("GET", target)
        response = connection.getresponse()
        return HttpReply(response.status, response.read(MAX_BODY_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(explain(error)) from None
    finally:
        connection.close()


def explain(reason: object) -> str:
    """The reason why there was no answer, and advice for known reasons."""
    match reason:
        case ssl.SSLCertVerificationError():
            return _CERTIFICATE.get(reason.verify_code, f"its certificate does not verify: {reason.verify_message}")
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "HTTP_REQUEST" | "RECORD_LAYER_FAILURE"):
            return "it does not speak TLS: write http:// if that is meant"
        case TimeoutError():
            return "no answer in time: is there a firewall, or a proxy to go through?"
        case socket.gaierror():
            return "its name cannot be resolved"
        case ConnectionRefusedError():
            return "connection refused: nothing listens there"
        case PermissionError():
            return "permission denied: run p2pd doctor as root"
        case FileNotFoundError():
            return "there is no such socket"
        case http.client.HTTPException():
            return "it does not speak HTTP"
        case OSError(strerror=str(text)):
            return text
        case _:
            return str(reason)


def space(path: Path) -> DiskSpace | None:
    """The space of the file system that `path` is on, or would be on if it were made."""
    for place in (path, *path.parents):
        try:
            usage = shutil.disk_usage(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return DiskSpace(usage.total, usage.free)
    return None


def owner(path: Path) -> Owner | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Owner(status.st_uid, status.st_mode & 0o7777)
