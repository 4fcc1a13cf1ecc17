"""What can go wrong in a host's part, split by who is to blame.

Every library's exceptions are translated into these at one seam (the module that calls the library), so that no caller
ever catches an `OSError` or an `http.client` exception of somebody else's doing. The text of each error is written for
the operator: it names the thing and says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping


class P2pdError(Exception):
    """The base of all errors that p2pd raises on purpose."""


class InvalidNameError(P2pdError):
    """A digest, repository, tag or upstream is not of the form that the OCI specification gives it."""


class ManifestError(P2pdError):
    """Bytes that should be a manifest or an index are not one, or one of a kind that p2pd does not support."""


class OriginError(P2pdError):
    """The base of what an origin does to us."""


class OriginRefusedError(OriginError):
    """The origin answered, and the answer is no: a 4xx that is for the client to see.

    `status` is the origin's; `headers` holds only those that the client needs (`WWW-Authenticate`, `Retry-After`),
    and `Content-Range`, unchanged; `challenges` are the values of `WWW-Authenticate` field by field; `body` is the
    origin's own error body, at most 64 KiB. `redirected`: a redirect's target refused, to which the origin had let the
    request pass.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        redirected: bool = False,
        challenges: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = body
        self.redirected = redirected
        one = (value for name, value in self.headers.items() if name.lower() == "www-authenticate")
        self.challenges = challenges or tuple(one)


class OriginUnreachableError(OriginError):
    """No useful answer from any endpoint: refused, timed out, TLS that does not verify, 5xx to the last try."""


class OriginTimeoutError(OriginUnreachableError):
    """No answer within the time that a client waits."""


class OriginBrokenError(OriginError):
    """The body ended early, or stalled, and could not be resumed. What had landed is kept."""


class OriginCorruptError(OriginError):
    """The origin's bytes are not what their digest says. Nothing of it was served as complete."""


class OriginUnusableError(OriginError):
    """The origin answered, and nothing can be made of the answer: its length or its range contradicts what was asked
    for, it is in a coding that p2pd cannot undo, or it is something else. No byte of it was found wrong."""


class OriginTooLargeError(OriginUnusableError):
    """An answer is longer than any such answer may be."""


class OriginResizedError(OriginUnusableError):
    """The origin's answer has another length, `size_bytes`, than the blob was said to have."""

    def __init__(self, message: str, size_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes


class DrainingError(P2pdError):
    """This node begins nothing new: it is about to stop."""


class StoreError(P2pdError):
    """The base of what the local piece store does to us."""


class StoreFullError(StoreError):
    """There is no room within `max_bytes` and `min_free_bytes`, and nothing that may be evicted.

    `passing`: there will be room once what is in use now is not any more.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class BlobInUseError(StoreError):
    """Somebody reads or writes the blob that was to be removed."""


class BlobAdoptedError(BlobInUseError):
    """The file of the blob that was to be removed is a container runtime's."""


class StoreInUseError(StoreError):
    """Another process holds the store directory."""


class ForeignDirectoryError(StoreError):
    """The directory exists, is not empty, and is not a store of p2pd's."""


class StoreBrokenError(StoreError):
    """The disk failed under us: reading or writing a blob's file gave an error that is not for lack of room."""


class StoreReadOnlyError(StoreBrokenError):
    """The file system of the store takes no writes. What is held can be read."""


class FileLimitError(StoreError):
    """We may have no more files open: our own limit, or the machine's. The disk is well, and so is what it holds."""


class PeerError(P2pdError):
    """The base of what a neighbour does to us."""


class PeerBusyError(PeerError):
    """All its upload slots are taken; it said so at once."""


class PeerGoneError(PeerError):
    """It does not answer, breaks off, or lacks the piece that it claimed."""


class PeerCorruptError(PeerError):
    """It sent other bytes than the piece's digest says. They never reached the store."""


class PieceDiffersError(PeerError):
    """A piece is as its digest says, and has other bytes than the origin. It never reached the store."""


class FetchStoppedError(PeerError):
    """We no longer wanted the piece."""
