"""Asking a mirror as container runtimes do: HTTP/1.1, `?ns=`, and a challenge answered with the user's credentials.

Rules:
1. The errors of sockets and of http.client become MirrorError here.
2. A challenge comes from the registry behind the mirror, so it is judged as if that registry had been asked: a
   token server is https, and the credentials go to one in the registry's domain or to a host that the user named.
3. Each exchange has a connection of its own, which `close` interrupts from any thread.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

from p2pd.config.values import Address
from peer.errors import P2pdError
from peer.origin.api import Answer
from peer.origin.clock import SystemClock
from peer.origin.headers import content_length, content_range
from peer.origin.tokens import Tokens
from peer.origin.upstream import RegistryEndpoint, Target, Upstream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from p2pd.pull.docker_config import Login
    from peer.oci.reference import Repository, UpstreamName

_CONNECT_S = 10.0
_STALL_S = 120.0
"""How long nothing may arrive. A mirror that has nothing yet to send is fetching a large first piece from far away."""

_MAX_TOKEN_BYTES = 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_UNAUTHORIZED = 401
_TRIED_AGAIN = frozenset({408, 429})


class MirrorError(P2pdError):
    """What was asked for did not come, from the mirror or its token server. `lasting`: nor would it the next time."""

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class MirrorReply:
    """An answer with status 200 or 206, and its body to be read. `start` is where in the content the body begins."""

    def __init__(
        self, client: MirrorClient, where: str, response: http.client.HTTPResponse, busy: socket.socket
    ) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.start = 0
        self.length = None if response.chunked else content_length(self.headers.get("content-length", ""))
        self._client = client
        self._where = where
        self._response = response
        self._busy = busy

    def readinto(self, view: memoryview) -> int:
        """How many bytes of the body came into `view`; 0 at its end, be that early or not. Raises MirrorError."""
        try:
            return self._response.readinto(view)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise MirrorError(f"{self._where}: the body broke off ({_reason(error)})") from None

    def read(self, limit: int) -> bytes:
        """The body, up to `limit` bytes of it; MirrorError if it breaks off."""
        try:
            body = self._response.read(limit)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise MirrorError(f"{self._where}: the body broke off ({_reason(error)})") from None
        if len(body) < min(limit, self.length or 0):
            raise MirrorError(f"{self._where}: the body broke off")
        return body

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        self._client.forget(self._busy)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class MirrorClient:
    """Asks `mirror` for content of one registry, `upstream`, as the user of `login` or as nobody."""

    def __init__(
        self, mirror: Address, upstream: UpstreamName, *, login: Login | None, token_hosts: Sequence[str] = ()
    ) -> None:
        self._mirror = Target("http", mirror.host, mirror.port)
        self._upstream = upstream
        # A registry on this machine may speak plain http, as docker too allows.
        scheme = "http" if Address(upstream.partition(":")[0], 0).is_loopback else "https"
        registry = f"{scheme}://{upstream}"
        self._registry = RegistryEndpoint.parse(registry)
        origin = Upstream(
            upstream,
            (registry,),
            username=login.username if login else None,
            password=login.password if login else None,
            token_hosts=tuple(token_hosts),
        )
        self._tokens = Tokens(origin, SystemClock())
        self._lock = threading.Lock()
        self._busy: set[socket.socket] = set()
        self._closed = False

    def get(self, repository: Repository, below: str, *, start: int = 0, accept: str = "*/*") -> MirrorReply:
        """Ask for `below` (`blobs/sha256:…`) in `repository`, from byte `start` on. Raises MirrorError.

        `MirrorReply.start` is 0 where a mirror ignores the range.
        """
        where = f"{self._upstream}/{repository}/{below}"
        path = f"/v2/{repository}/{below}?{urlencode({'ns': self._upstream})}"
        headers = {"accept": accept, "accept-encoding": "identity"}
        if start:
            headers["range"] = f"bytes={start}-"
        authorization = self._tokens.remembered(self._registry, repository)
        reply = self._exchange(self._mirror, path, headers, authorization, where)
        if reply.status == _UNAUTHORIZED and "www-authenticate" in reply.headers:
            with reply:
                refusal = _refusal(reply, where)
            challenge = reply.headers["www-authenticate"]
            answer = self._tokens.answer(self._registry, repository, challenge, authorization, self._fetch)
            if answer is None:
                raise refusal
            reply = self._exchange(self._mirror, path, headers, answer, where)
        if reply.status == http.client.PARTIAL_CONTENT:
            _take_range(reply, start, where)
        elif reply.status != http.client.OK:
            with reply:
                raise _refusal(reply, where)
        return reply

    def forget(self, busy: socket.socket) -> None:
        """An exchange is over."""
        busy.close()
        with self._lock:
            self._busy.discard(busy)

    def close(self) -> None:
        """End every exchange, and let none begin."""
        with self._lock:
            self._closed = True
            for busy in self._busy:
                try:
                    busy.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # its other side was faster

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _fetch(self, target: Target, path: str, authorization: str | None) -> Answer:
        where = f"token server {target}"
        with self._exchange(target, path, {"accept": "application/json"}, authorization, where) as reply:
            return Answer(reply.status, reply.headers, reply.read(_MAX_TOKEN_BYTES))

    def _exchange(
        self, target: Target, path: str, headers: Mapping[str, str], authorization: str | None, where: str
    ) -> MirrorReply:
        kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
        connection = kind(target.host, target.port, timeout=_CONNECT_S)
        try:
            connection.connect()
        except (OSError, ValueError) as error:
            raise MirrorError(f"{target} could not be connected to ({_reason(error)}): is it running there?") from None
        busy = connection.sock
        self._hold(busy)
        sent = {**headers, "connection": "close", "user-agent": "p2pd-pull"}
        if authorization is not None:
            sent["authorization"] = authorization
        try:
            busy.settimeout(_STALL_S)
            connection.request("GET", path, headers=sent)
            return MirrorReply(self, where, connection.getresponse(), busy)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.forget(busy)
            raise MirrorError(f"{where}: {target} did not answer ({_reason(error)})") from None

    def _hold(self, busy: socket.socket) -> None:
        """From now on `close` interrupts it."""
        with self._lock:
            if not self._closed:
                self._busy.add(busy)
                return
        busy.close()
        raise MirrorError("the pull was interrupted", lasting=True)


def _take_range(reply: MirrorReply, start: int, where: str) -> None:
    found = content_range(reply.headers.get("content-range", ""))
    if found is None or found.start != start:
        reply.close()
        raise MirrorError(f"{where}: byte {start} was asked for, and another range came", lasting=True)
    reply.start = start


def _refusal(reply: MirrorReply, where: str) -> MirrorError:
    """The mirror's own words, if it has any: the distribution API's errors, or p2pd's."""
    told: object = ""
    try:
        body = json.loads(reply.read(_MAX_ERROR_BYTES))
        told = body["errors"][0].get("message") or body["errors"][0]["code"]
    except (MirrorError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    lasting = reply.status < 500 and reply.status not in _TRIED_AGAIN
    line = ascii(told[:200])[1:-1] if isinstance(told, str) and told else http.client.responses.get(reply.status, "")
    return MirrorError(f"{where}: {reply.status} {line}".rstrip(), lasting=lasting)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return type(error).__name__
