"""The client of the admin port: commands read and change the daemon on this machine through it.

Rules:
1. Every call ends within a bound.
2. What needs the daemon's secret (`p2pd.admin.secret`) shows it. Without a `directory` there is no secret to show.
3. Errors are P2pdErrors, and say what to do.
4. The store, and what else imports it, is imported by the calls that need it: it is half of the time of `p2pd status`.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from p2pd.config.values import ConfigError
from peer.errors import BlobInUseError, P2pdError

if TYPE_CHECKING:
    from p2pd.admin.images import CachedImage
    from p2pd.config.changes import Change, Reloaded
    from p2pd.config.values import Address
    from peer.store import BlobInfo, VerifyReport

T = TypeVar("T")

_WORK_TIMEOUT_S: Final = 3600.0
"""Bound on reading the whole cache again: 50 GiB from a disk of 100 MiB/s take nine minutes."""

_IMPORT_TIMEOUT_S: Final = 86_400.0

_OPEN: Final = ("/status", "/hosts", "/cluster")
"""Paths that are answered without the secret."""

_PREHEATS: Final = "/api/v1/preheats"

_RELOAD_TIMEOUT_S: Final = 30.0
"""The daemon reads files, which may be on a slow disk."""


class DaemonUnreachableError(P2pdError):
    """No daemon accepts connections at the admin address."""


class DaemonRefusedError(P2pdError):
    """The daemon refused a request (the text is its reason), or its answer is not of the expected form."""


@dataclass(frozen=True, slots=True)
class Collected:
    """The blobs that were removed to keep the cache within its limits, and the room that they took."""

    removed: tuple[str, ...]
    freed_bytes: int


class AdminClient:
    """The daemon's admin port, with a connection for each call.

    `directory` is the daemon's. Every method raises DaemonUnreachableError, NoSecretError and DaemonRefusedError.
    """

    def __init__(self, address: Address, directory: Path | None = None, *, answer_timeout_s: float = 5.0) -> None:
        self._address = address
        self._directory = directory
        self._answer_timeout_s = answer_timeout_s

    def status(self) -> dict[str, Any]:
        """The daemon's `/status`."""
        return self._ask("GET", "/status", dict)

    def hosts(self) -> list[dict[str, Any]]:
        """The hosts of the scheduler there, as `scheduler.core.roster.HostFacts` has them."""
        return self._ask("GET", "/hosts", lambda rows: [dict(row) for row in rows])

    def cluster(self) -> dict[str, Any]:
        """The cluster of the scheduler there, as `p2pd.admin.cluster` tells it."""
        return self._ask("GET", "/cluster", dict)

    def blobs(self) -> list[BlobInfo]:
        """All blobs that the cache holds whole or in part."""
        from peer.store import BlobInfo

        return self._ask("GET", "/cache", lambda rows: [BlobInfo(**row) for row in rows])

    def images(self) -> list[CachedImage]:
        """The images that are held, by name."""
        from p2pd.admin.images import CachedImage

        return self._ask("GET", "/cache/images", lambda rows: [CachedImage(**row) for row in rows])

    def remove(self, digest: str) -> bool:
        """Remove a blob; False if there is none. Raises BlobInUseError."""
        status, answer = self._call("DELETE", f"/cache/{digest}", self._answer_timeout_s)
        if status == 409:
            raise BlobInUseError(_reason(answer, status))
        if status not in (200, 404):
            raise DaemonRefusedError(_reason(answer, status))
        return status == 200

    def collect(self) -> Collected:
        """Remove blobs that are too old, or beyond the cache's size."""
        return self._ask(
            "POST",
            "/cache/gc",
            lambda found: Collected(tuple(found["removed"]), int(found["freed_bytes"])),
            timeout_s=_WORK_TIMEOUT_S,
        )

    def verify(self) -> VerifyReport:
        """Read and hash the whole cache."""
        from peer.store import VerifyReport

        return self._ask(
            "POST",
            "/cache/verify",
            lambda found: VerifyReport(int(found["checked"]), tuple(found["bad"])),
            timeout_s=_WORK_TIMEOUT_S,
        )

    def in_force(self) -> list[dict[str, Any]]:
        """Each key of the daemon's settings, as `p2pd.daemon.control.Control.in_force` gives them."""
        return self._ask("GET", "/config", list)

    def reload(self) -> Reloaded:
        """Have the daemon read its settings again. Raises ConfigError; then all is as it was."""
        from p2pd.config.changes import Reloaded

        return self._ask(
            "POST",
            "/reload",
            lambda found: Reloaded(_changes(found["changed"]), _changes(found["needs_restart"])),
            timeout_s=_RELOAD_TIMEOUT_S,
        )

    def drain(self, timeout_s: float) -> bool:
        """Have the daemon finish what is under way, and stop. Returns whether it finished all within `timeout_s`."""
        path = f"/drain?timeout={timeout_s:g}"
        return self._ask("POST", path, lambda found: bool(found["finished"]), timeout_s=timeout_s + _RELOAD_TIMEOUT_S)

    def is_there(self) -> bool:
        """Whether a daemon answers."""
        try:
            self.status()
        except DaemonUnreachableError:
            return False
        except DaemonRefusedError:  # it is closing the connection
            pass
        return True

    def preheat(self, request: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Order a preheat (`p2pd.preheat.request`) at a scheduler; the same one for a key that comes again.

        Raises ConfigError for a request that is wrong.
        """
        return self._ask("POST", _PREHEATS, dict, body=request, headers={"Idempotency-Key": key})

    def preheats(self) -> list[dict[str, Any]]:
        """The newest preheats of a scheduler first, without their hosts."""
        return self._ask("GET", f"{_PREHEATS}?limit=1000", list)

    def preheat_of(self, name: str, action: str | None = None) -> dict[str, Any]:
        """A preheat with its hosts, once the `action` was done, if one is given: `cancel` or `retry`."""
        path = f"{_PREHEATS}/{quote(name, safe='')}"
        return self._ask("GET", path, dict) if action is None else self._ask("POST", f"{path}/{action}", dict)

    def import_site(self, path: Path, images: Sequence[str], keep: str) -> list[dict[str, Any]]:
        """Have the daemon take in images of an archive that it can read: `p2pd.site.importing.Imported` of each.

        Raises ConfigError for a request that is wrong.
        """
        body = {"path": str(path), "images": list(images), "keep": keep}
        return self._ask("POST", "/site/import", list, timeout_s=_IMPORT_TIMEOUT_S, body=body)

    def predictions(self) -> dict[str, Any]:
        """What a scheduler expects to be pulled, as `p2pd.predict.api` tells it."""
        return self._ask("GET", "/predictions", dict)

    def _ask(
        self,
        method: str,
        path: str,
        decode: Callable[[Any], T],
        *,
        timeout_s: float | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        status, answer = self._call(method, path, timeout_s or self._answer_timeout_s, body, headers)
        if status == 422:
            raise ConfigError(_reason(answer, status))
        if status not in (200, 201):
            raise DaemonRefusedError(_reason(answer, status))
        try:
            return decode(answer)
        except (KeyError, TypeError, ValueError):
            raise DaemonRefusedError(
                f"what {self._address} answers to {path} is not understood: is the daemon of another version?"
            ) from None

    def _call(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: Mapping[str, Any] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self._address.host, self._address.port, timeout=self._answer_timeout_s)
        try:
            connection.connect()
        except OSError as error:
            raise DaemonUnreachableError(
                f"no daemon answers at {self._address} ({error.strerror or error}): start it, or name its admin port "
                "with --admin"
            ) from None
        try:
            connection.sock.settimeout(timeout_s)
            headers = {} if path in _OPEN else {"Authorization": self._authorization(connection.sock)}
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {**headers, **(more or {})})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except TimeoutError:
            raise DaemonRefusedError(f"the daemon at {self._address} gave no answer within {timeout_s:g} s") from None
        except (OSError, http.client.HTTPException, ValueError):
            raise DaemonRefusedError(f"what answers at {self._address} is not the admin port of p2pd") from None
        finally:
            connection.close()

    def _authorization(self, connected: socket.socket) -> str:
        from p2pd.admin.secret import authorization

        return authorization(self._secret(connected))

    def _secret(self, connected: socket.socket) -> str:
        from p2pd.admin.secret import NoSecretError, is_on_this_machine, read_secret

        if not is_on_this_machine(connected.getpeername()[0], connected.getsockname()[0]):
            raise NoSecretError(
                f"{self._address} is another machine, and the daemon's secret does not go over the network: run this on"
                " the daemon's machine, by SSH or in its container"
            )
        if self._directory is None:
            raise NoSecretError(f"the daemon at {self._address} wants its secret: name its directory with --data")
        return read_secret(self._directory, self._address)


def _changes(rows: list[dict[str, str | None]]) -> tuple[Change, ...]:
    from p2pd.config.changes import Change

    return tuple(Change(str(row["what"]), row["before"], row["after"]) for row in rows)


def _reason(answer: Any, status: int) -> str:
    if isinstance(answer, dict) and isinstance(answer.get("error"), str):
        return str(answer["error"])
    if status == 403:
        return "the daemon did not accept the secret of its directory: is it another daemon's? Name it with --data"
    return f"the daemon answered with status {status}"
