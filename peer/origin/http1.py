"""One exchange on one connection: a request goes out, and a reply comes in.

Rules:
1. In this file and in `connections.py` the errors of sockets, TLS and http.client become ours.
2. Data goes from the kernel into the caller's buffer: `Reply.readinto` is one `recv_into`. http.client reads the
   headers; its buffer holds at most the first 8 KiB of a body.
3. Headers, and whole small answers, have a deadline. A body has only a bound on the time without any bytes.
"""

from __future__ import annotations

import functools
import http.client
import io
import math
import select
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from peer.errors import OriginError, OriginTooLargeError, OriginUnreachableError, OriginUnusableError
from peer.origin.api import MAX_ANSWER_BYTES, Answer
from peer.origin.codings import coding_of, decoded, is_decoded
from peer.origin.headers import content_length
from peer.origin.response_head import framing_of, read_head

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from peer.origin.address_policy import Address
    from peer.origin.cancel import CancelScope
    from peer.origin.clock import Clock
    from peer.origin.upstream import Target

_TIMEVAL = struct.Struct("@ll")

LOW_WATER_BYTES = 128 * 1024
"""A thread that waits for more is woken once so many bytes have arrived: else each packet would wake it."""

FRAMED_BYTES = 256 * 1024
"""What is received at once of a body without a length; such a body is copied once."""

MAX_ERROR_BYTES = 64 * 1024
"""The bound on an error's body, which clients get. The distribution API's JSON errors are below 1 KiB."""


class ExchangeFailedError(OriginUnreachableError):
    """One exchange failed. Another may succeed, unless `lasting`. It is never raised outside `peer.origin`.

    If no endpoint does better, the caller gets `answer`, or else the error `told`, or else that the upstream gave no
    answer.
    """

    def __init__(
        self, message: str, *, lasting: bool = False, told: OriginError | None = None, answer: Answer | None = None
    ) -> None:
        super().__init__(message)
        self.lasting = lasting
        self.told = told
        self.answer = answer


def unusable(message: str) -> ExchangeFailedError:
    """An endpoint has answered, and the answer is of no use. Another endpoint may do better, and this one will not."""
    return ExchangeFailedError(message, lasting=True, told=OriginUnusableError(message))


class _Incoming(io.RawIOBase):
    """The file that http.client reads: the socket, with a deadline for all headers together.

    A socket's own timeout is for each `recv`: a server that sends a byte now and then would never exceed it.
    """

    def __init__(self, owner: Connection, busy: socket.socket, raw: io.RawIOBase) -> None:
        self._owner = owner
        self._socket = busy
        self._raw = raw  # keeps the socket open while http.client has only the response

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        if self._owner.streams:
            return None  # like a socket that would block: a reader gets the bytes that came with the headers, no more
        self._owner.limit(self._socket)
        return self._socket.recv_into(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class Connection:
    """A connection to `target`. One exchange at a time.

    `to_proxy` are the headers of a request in absolute form to a proxy; None without such a proxy.
    """

    def __init__(
        self,
        wire: http.client.HTTPConnection,
        target: Target,
        to_proxy: Mapping[str, str] | None,
        stall_s: float,
        clock: Clock,
    ) -> None:
        """`stall_s` is for long bodies."""
        self.target = target
        self.address: Address | None = None
        """The other side's address; None behind a proxy."""
        self.idle_since = 0.0
        self.streams = False
        """Whether a long body is being received: then http.client does not read from the socket."""
        self._wire = wire
        self._to_proxy = to_proxy
        self._stall_s = stall_s
        self._clock = clock
        self._deadline = 0.0
        wire.auto_open = 0
        wire.response_class = functools.partial(_response, self)  # type: ignore[assignment]  # any callable does

    def ask(
        self,
        cancel_scope: CancelScope,
        method: str,
        path: str,
        headers: Mapping[str, str],
        deadline: float,
        done: Callable[[Connection, bool], None],
        content: bytes | None = None,
    ) -> Reply:
        """Send a request and read the headers of the answer. `done` gets this connection once the answer is closed.

        Raises ConnectionError when the other side is gone, ExchangeFailedError for all else.
        """
        busy = self._wire.sock  # http.client forgets it once it knows that the answer is the last
        cancel_scope.hold(busy)
        self._deadline = deadline
        self.streams = False
        if self._to_proxy is not None:
            path, headers = f"{self.target}{path}", {**headers, **self._to_proxy}
        try:
            self.limit(busy)
            self._wire.request(method, path, body=content, headers=headers)
            response = cast("_Response", self._wire.getresponse())
        except ConnectionError:
            raise
        except ssl.SSLEOFError as error:  # what a ConnectionError is called when TLS has to write
            raise ConnectionResetError("the connection was closed") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ExchangeFailedError(f"{self.target} did not answer ({reason(error)})") from error
        return Reply(self, cancel_scope, busy, response, done)

    def limit(self, busy: socket.socket) -> None:
        """Let `busy` wait for the time that is left; TimeoutError if none is left."""
        left_s = self._deadline - self._clock.monotonic()
        if left_s <= 0:
            raise TimeoutError
        busy.settimeout(self._stall_s if math.isinf(left_s) else left_s)

    def stream(self, busy: socket.socket) -> None:
        """From now on only stalls count: a body may take any time while bytes arrive."""
        self._deadline = math.inf
        self.streams = True
        if isinstance(busy, ssl.SSLSocket):
            busy.settimeout(self._stall_s)
            return
        # A timeout of Python's makes the socket non-blocking, and MSG_WAITALL then waits for nothing.
        busy.settimeout(None)
        seconds, rest = divmod(self._stall_s, 1)
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(int(seconds), int(rest * 1e6)))

    def stream_framed(self) -> None:
        """As `stream`, for a body whose length only its framing tells: http.client reads on."""
        self._deadline = math.inf

    def is_dead(self) -> bool:
        """Whether the other side closed the connection, or sent bytes unasked."""
        poll = select.poll()
        poll.register(self._wire.sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close it."""
        self._wire.close()


class _Response(http.client.HTTPResponse):
    """http.client's response, whose bodies we use, with a head that is read as other clients read it."""

    fields: tuple[tuple[str, str], ...]
    asked_by: str

    def begin(self) -> None:
        head = read_head(self.fp)
        framing = framing_of(head, self.asked_by)
        self.fields = head.fields
        self.version, self.status, self.reason = 10 + head.minor, head.status, ""
        self.headers = self.msg = http.client.HTTPMessage()
        self.chunked, self.chunk_left = framing.chunked, None
        self.length, self.will_close = framing.length, not framing.keeps


def _response(owner: Connection, sock: socket.socket, debuglevel: int = 0, method: str | None = None) -> _Response:
    response = _Response(sock, debuglevel, method)
    response.asked_by = method or "GET"
    response.fp = io.BufferedReader(_Incoming(owner, sock, response.fp.detach()))
    return response


class Reply:
    """An answer whose headers have arrived, and whose body is still to be read.

    `headers` have lower-case names; the values of one name are joined by commas. `challenges` are the values of
    WWW-Authenticate, one by one. `length` is the body's length, None if only its framing tells it. `close` keeps the
    connection for other requests if the body was read to its end.
    """

    def __init__(
        self,
        connection: Connection,
        cancel_scope: CancelScope,
        busy: socket.socket,
        response: _Response,
        done: Callable[[Connection, bool], None],
    ) -> None:
        self.target = connection.target
        self.address = connection.address
        self.status = response.status
        self.headers: dict[str, str] = {}
        for name, value in response.fields:
            known = self.headers.get(name)
            self.headers[name] = value if known is None else f"{known}, {value}"
        if (told := content_length(self.headers.get("content-length", ""))) is not None:
            self.headers["content-length"] = str(told)
        self.challenges = tuple(value for name, value in response.fields if name == "www-authenticate")
        self.length = response.length
        self._connection = connection
        self._cancel_scope = cancel_scope
        self._socket = busy
        self._response = response
        self._done: Callable[[Connection, bool], None] | None = done
        self._answer: Answer | None = None
        self.redirected = False
        """Whether this is the answer of a redirect's target that is not the registry itself."""

    @property
    def left(self) -> int | None:
        """The bytes of the body that have not been read; None if its length is not known."""
        return None if self.length is None else self._response.length or 0

    def drop_challenges(self) -> None:
        """Take the challenges out of the answer: they are not for our clients."""
        self.headers.pop("www-authenticate", None)
        self.challenges = ()

    def stream(self) -> None:
        """Drop the deadline: a long body follows."""
        if self.length is None:
            self._connection.stream_framed()
        else:
            self._connection.stream(self._socket)

    def readinto(self, view: memoryview) -> int:
        """Receive once, into `view`. `stream` was called before. Bytes that came with the headers are first.

        Returns 0 at the body's end. Raises ExchangeFailedError if the body breaks off. `HTTPResponse.readinto` will not
        do: it fills the whole view, and if the connection breaks meanwhile, the number of received bytes is lost.
        """
        if self._done is None:
            raise ExchangeFailedError(f"{self.target} has no more to send for this request")
        left = self.left
        if left == 0:
            return 0
        try:
            if left is None:
                read = self._response.read1(min(len(view), FRAMED_BYTES))
                view[: len(read)] = read
                return len(read)
            received = self._response.fp.readinto1(view[:left]) or self._receive(view[:left])
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._broken(error) from error
        if received == 0:
            raise ExchangeFailedError(f"{self.target} ended the body {left} bytes early")
        self._response.length = left - received
        return received

    def _receive(self, view: memoryview) -> int:
        """With TLS, as much as has arrived. Else all that is wanted: one hand-over of the interpreter lock a piece."""
        if isinstance(self._socket, ssl.SSLSocket):
            return self._socket.recv_into(view)
        before_last = max(0, len(view) - LOW_WATER_BYTES)  # else the last bytes alone would never wake us
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, LOW_WATER_BYTES if before_last else 1)
        return self._socket.recv_into(view[: before_last or len(view)], 0, socket.MSG_WAITALL)

    def answer(self) -> Answer:
        """The whole reply as a small answer, decoded; the connection is kept. Errors are cut to MAX_ERROR_BYTES, and
        where they, or redirects, break off.

        Raises ExchangeFailedError if the body breaks off, is too large or in a coding that p2pd does not know.
        """
        if self._answer is None:
            try:
                body = self._decoded(self._read_small())
                self._answer = Answer(self.status, self.headers, body, self.challenges, self.redirected)
            finally:
                self.close()
        return self._answer

    def close(self) -> None:
        """Close the reply; may be called again."""
        done, self._done = self._done, None
        if done is None:
            return
        response = self._response
        whole = response.isclosed() if response.length is None else response.length == 0
        response.close()
        self._cancel_scope.let_go()
        done(self._connection, whole and not response.will_close and not self._cancel_scope.ended)

    def _read_small(self) -> bytes:
        most = MAX_ERROR_BYTES if self.status >= 400 else MAX_ANSWER_BYTES
        try:
            body = self._response.read(most + 1)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if self.status >= 300:  # the status is what counts
                return error.partial if isinstance(error, http.client.IncompleteRead) else b""
            raise self._broken(error) from error
        if self.status >= 400:
            return body[:most]
        if len(body) > most:
            message = f"{self.target} sent more than {most} bytes where a small answer was expected"
            raise ExchangeFailedError(message, lasting=True, told=OriginTooLargeError(message))
        if self.left and self.status < 300:
            raise ExchangeFailedError(f"{self.target} ended its answer {self.left} bytes early")
        return body

    def _decoded(self, body: bytes) -> bytes:
        """The body without its content coding. A label on bytes that are not so coded is none."""
        coding = coding_of(self.headers.get("content-encoding", ""))
        if coding is None:
            return body
        if self._response.asked_by == "HEAD":  # the length, too, is that of the coded bytes
            self.headers.pop("content-length", None)
            return body
        plain = decoded(body, MAX_ANSWER_BYTES) if is_decoded(coding) else None
        if plain is None and self.status < 300 and not body.lstrip().startswith((b"{", b"[")):
            raise unusable(
                f"{self.target} answers in the coding {coding} though identity was asked for, and p2pd cannot undo it;"
                " something on the way compresses what it must not touch"
            )
        del self.headers["content-encoding"]
        if plain is not None:
            self.headers["content-length"] = str(len(plain))
        return body if plain is None else plain

    def _broken(self, error: Exception) -> ExchangeFailedError:
        return ExchangeFailedError(f"{self.target} broke off its answer ({reason(error)})")


def reason(error: Exception) -> str:
    """The reason of an error, without the request: an http.client error may quote a URL, which may be signed."""
    if isinstance(error, TimeoutError | BlockingIOError):  # BlockingIOError: SO_RCVTIMEO
        return "timed out"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return type(error).__name__
