"""The interface between `p2pd configure` and the module of a runtime.

Rules for such a module:
1. It reads only through `Reader`, and it writes nothing: it returns the wanted files.
2. `Reader` shows the operator's files as they would be if p2pd had never changed them (p2pd.configure.plan). So the
   module need not remove an earlier mirror. If the journal was lost, the module leaves right entries in place.
3. If a change cannot be made exactly, the module raises ConfigureError with the lines to add by hand.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from p2pd.config.upstream_setting import UpstreamSetting
from p2pd.config.values import Address
from peer.errors import P2pdError

MARK: Final = re.compile(rb"# Written by `p2pd configure [a-z0-9]+` \(check ([0-9a-f]{16})\)[^\n]*\n")
"""The first line of a file that is wholly ours."""

COMMENT: Final = "# Added by `p2pd configure`."
"""The line before what p2pd put into an operator's file, where the format has comments."""


class ConfigureError(P2pdError):
    """A runtime could not be configured or undone; no file was changed. The text says what to do."""


class NotMountedError(ConfigureError):
    """A path is outside of the mounted directories, so nobody knows from here what the machine has there."""


class Reader(Protocol):
    """The present files. Paths are absolute, as the runtime sees them. Both methods raise NotMountedError."""

    def read(self, path: str) -> bytes | None:
        """The file's bytes; None if there is no such file. Raises ConfigureError if it cannot be read."""
        ...

    def names(self, directory: str) -> frozenset[str] | None:
        """The names in the directory; None if there is no such directory."""
        ...


def host_for_clients(listening: Address) -> str:
    """HOST:PORT for clients of this machine: loopback if p2pd listens on every address."""
    try:
        address = ipaddress.ip_address(listening.host)
    except ValueError:
        return str(listening)
    if not address.is_unspecified:
        return str(listening)
    return str(Address("127.0.0.1" if address.version == 4 else "::1", listening.port))


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """The HTTPS proxy of the p2pd whose directory is `data`, as dockerd reaches it.

    `in_daemon_json`: dockerd reads its proxy from daemon.json. `environment` is the HTTPS proxy that a dockerd which
    runs has from its environment, or empty.
    """

    url: str
    data: str
    in_daemon_json: bool = False
    environment: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """The wanted behaviour: the runtime asks `mirror` for images of `upstreams`; if `wildcard`, of any registry.

    `any_host`: the mirror serves any registry (its upstream `*`). `default_upstream` is the upstream whose images the
    mirror serves to a client that names no registry. `https_proxy` is for dockerd alone. `own` are the mirror's own
    addresses for upstreams.
    """

    mirror: Address
    upstreams: tuple[UpstreamSetting, ...]
    default_upstream: str
    wildcard: bool = False
    any_host: bool = False
    https_proxy: ProxyRequest | None = None
    own: Mapping[str, Address] = field(default_factory=dict)

    def host_for(self, upstream: str) -> str:
        """HOST:PORT at which the mirror has that upstream's challenge for clients that name it in a path."""
        own = None if upstream == self.default_upstream else self.own.get(upstream)
        return self.mirror_host if own is None else str(own)

    @property
    def mirror_host(self) -> str:
        """HOST:PORT for clients of this machine."""
        return host_for_clients(self.mirror)

    @property
    def mirror_url(self) -> str:
        return f"http://{self.mirror_host}"

    @property
    def upstream_names(self) -> tuple[str, ...]:
        return tuple(upstream.name for upstream in self.upstreams)


@dataclass(frozen=True, slots=True)
class RuntimePlan:
    """The wanted files by path, and notes for the operator, which do not depend on whether files change."""

    files: Mapping[str, bytes]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """A container runtime, as `p2pd configure NAME` knows it.

    `journal` names the journal of changes: runtimes that read the same files share a journal. `activation` says, by
    path, how the runtime is made to read the file again; other files are read for each pull. `programs` are the names
    of its executables, `families` the user agents of its requests in p2pd's status. `no_wildcard` says why the runtime
    cannot be told to ask the mirror for every registry; empty if it can.
    """

    name: str
    journal: str
    plan: Callable[[Request, Reader], RuntimePlan]
    programs: tuple[str, ...]
    families: tuple[str, ...]
    activation: Mapping[str, str] = field(default_factory=dict)
    no_wildcard: str = ""

    def remarks(self, request: Request) -> tuple[str, ...]:
        """What the operator may expect of a request for every registry."""
        if not request.wildcard:
            return ()
        if self.no_wildcard:
            return (f"{self.name} asks the mirror for {', '.join(request.upstream_names)} only: {self.no_wildcard}.",)
        if not request.any_host:
            served = ", ".join(request.upstream_names)
            remark = (
                f"{self.name} asks the mirror for every registry, and p2pd serves {served} only. It refuses others, "
                f"and {self.name} then asks these itself. To have p2pd serve them, give it the upstream '*' too "
                "(p2pd run --upstream '*', or \"*\" in the list `upstream` of p2pd.toml)."
            )
            return (remark,)
        return ()


def marked(name: str, body: str) -> bytes:
    """A file that is wholly ours: a first line that says so and names the runtime, and `body`."""
    first = f"# Written by `p2pd configure {name}` (check {_digest(body.encode())}); --undo takes it away.\n"
    return (first + body).encode()


def is_ours(content: bytes) -> bool:
    """Whether the file is as `marked` made it. A file with any change counts as the operator's."""
    match = MARK.match(content)
    return match is not None and _digest(content[match.end() :]).encode() == match[1]


def _digest(body: bytes) -> str:
    """Enough of the SHA-256 to notice a change. It is no protection against an attacker."""
    return hashlib.sha256(body).hexdigest()[:16]


class Unmarked:
    """The files of a Reader without those that are wholly ours, including those whose journal was lost."""

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
