"""What a runtime's module gives to `p2pd configure`, and what it is given.

Rules for such a module:
1. It reads through `Reader` and nothing else, and it changes nothing: it returns the files as they should be.
2. What it finds there is the operator's: the files as if p2pd had never been here (p2pd.configure.plan sees to that).
   So it need not take an earlier mirror out again. Where the journal was lost it leaves in place what is right already.
3. What it cannot change exactly, it does not change: it raises ConfigureError with the lines to add by hand.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from p2pd.config.values import Address, UpstreamSetting
from peer.errors import P2pdError

_MARK: Final = re.compile(rb"# Written by `p2pd configure [a-z0-9]+` \(check ([0-9a-f]{16})\)[^\n]*\n")


class ConfigureError(P2pdError):
    """A runtime could not be configured, or not be undone; nothing was left half done. The text says what to do."""


class Reader(Protocol):
    """The files that are there. Paths are absolute, as the runtime sees them."""

    def read(self, path: str) -> bytes | None:
        """The file's bytes; None if there is no such file. Raises ConfigureError if it cannot be read."""
        ...

    def names(self, directory: str) -> frozenset[str] | None:
        """What is in the directory; None if there is no such directory."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """What the runtime shall do: ask `mirror` for what comes from `upstreams`, and from any other if `wildcard`.

    `default_upstream` is the upstream whose images the mirror serves to a client that names none.
    """

    mirror: Address
    upstreams: tuple[UpstreamSetting, ...]
    default_upstream: str
    wildcard: bool = False

    @property
    def mirror_host(self) -> str:
        """HOST:PORT as a client of this machine writes it: where p2pd listens on every address, that is loopback."""
        host = self.mirror.host
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return str(self.mirror)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
        return str(Address(host, self.mirror.port))

    @property
    def mirror_url(self) -> str:
        return f"http://{self.mirror_host}"

    @property
    def upstream_names(self) -> tuple[str, ...]:
        return tuple(upstream.name for upstream in self.upstreams)


@dataclass(frozen=True, slots=True)
class RuntimePlan:
    """The files as they should be, by path, and what the operator ought to know whether or not they are so already."""

    files: Mapping[str, bytes]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """A container runtime, as `p2pd configure NAME` knows it.

    `journal` names the journal of what was changed: runtimes that read the same files share one. `activation` says, by
    path, what makes the runtime read that file again; a file that is not in it is read for each pull. `programs` are
    the names of its executables, `families` what its requests call themselves in p2pd's status.
    """

    name: str
    journal: str
    plan: Callable[[Request, Reader], RuntimePlan]
    programs: tuple[str, ...]
    families: tuple[str, ...]
    activation: Mapping[str, str] = field(default_factory=dict)
    has_wildcard: bool = False


def marked(name: str, body: str) -> bytes:
    """A file that is wholly ours: a first line that says so, for the runtime `name`, and `body`."""
    first = f"# Written by `p2pd configure {name}` (check {_digest(body.encode())}); --undo takes it away.\n"
    return (first + body).encode()


def is_ours(content: bytes) -> bool:
    """Whether the file is as `marked` made it. If anything in it was changed, it is the operator's."""
    match = _MARK.match(content)
    return match is not None and _digest(content[match.end() :]).encode() == match[1]


def _digest(body: bytes) -> str:
    """Enough of the SHA-256 to notice that somebody changed the file. It guards against nobody."""
    return hashlib.sha256(body).hexdigest()[:16]


class Unmarked:
    """The files of a Reader as if those did not exist that are wholly ours: those whose journal was lost, too."""

    def __init__(self, files: Reader) -> None:
        self._files = files

    def read(self, path: str) -> bytes | None:
        content = self._files.read(path)
        return None if content is not None and is_ours(content) else content

    def names(self, directory: str) -> frozenset[str] | None:
        return self._files.names(directory)


def text_of(path: str, content: bytes) -> str:
    """The file's text. Raises ConfigureError if it is not UTF-8, as JSON, TOML and YAML have to be."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigureError(f"{path} is not UTF-8 text: mend it first; nothing was changed") from None
