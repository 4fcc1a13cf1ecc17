"""`certs.d/<registry>/hosts.toml`: how containerd, and dockerd with its containerd image store, are told of a mirror.

Rules:
1. A file that is not there is written whole. It names the upstream as `server`, so that a pull goes on without p2pd.
2. In an operator's own file our host is put before all others and nothing else is touched: what was asked until now is
   asked whenever the mirror does not have it. (Spegel does so with `--prepend-existing`; without it, it moves the
   operator's hosts away. We never do.)
3. The directory of a registry is the first that containerd would find, `host_port_` before `host:port`. With a
   hosts.toml in it, containerd no longer looks for `*.crt` and `*.cert` there, so the file names those that are.
4. If an operator's _default directory is what counts for a registry, our host is put there: a directory of the
   registry's own would hide it. The mirror is asked for other registries too then, and refuses them at once.
5. `capabilities` are pull and resolve: nothing is ever pushed to a mirror.

The format: containerd, docs/hosts.md and core/remotes/docker/config/hosts.go. A key that a version does not know, it
passes over.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import tomlkit
from tomlkit.items import AoT, Table

from p2pd.config.upstream_setting import UpstreamSetting
from p2pd.configure.docker_proxy import AUTHORITY, HUB
from p2pd.configure.runtime import COMMENT, ConfigureError, NotMountedError, Reader, Request, RuntimePlan, marked
from p2pd.configure.toml_file import edited, new_table, parse, table
from peer.origin.upstream import UpstreamEndpoint

DIAL_TIMEOUT: Final = "1s"
"""For the dial to this machine: refused at once where nobody listens, so it bounds only a mirror that accepts nothing
any more. containerd's own default is 30 s. Known since containerd 2.1."""

_HOST: Final[dict[str, Any]] = {"capabilities": ["pull", "resolve"], "dial_timeout": DIAL_TIMEOUT}
"""The mirror's table, `[host."http://..."]`."""

WILDCARD: Final = "_default"
"""containerd's name for the directory of all registries that have none of their own."""


def plan(request: Request, files: Reader, directory: str, undo: str) -> RuntimePlan:
    """The hosts.toml of each upstream below `directory`; `undo` names the runtime for `p2pd configure`.

    Raises ConfigureError for an operator's file that is no TOML or cannot be changed safely.
    """
    wanted: dict[str, bytes] = {}
    remarks = []
    default = f"{directory}/{WILDCARD}"
    if request.https_proxy is not None and (files.read(f"{default}/hosts.toml") or b"").strip():
        raise ConfigureError(
            f"{default}/hosts.toml is for dockerd's containerd image store, which mirrors every registry and needs no "
            "HTTPS proxy: run this without --https-proxy; nothing was changed"
        )
    has_default = (files.read(f"{default}/hosts.toml") or b"").strip() != b""
    entries: dict[str, UpstreamSetting | None] = {default: None} if request.wildcard else {}
    for upstream in request.upstreams:
        place = _directory(files, directory, upstream.name)
        if has_default and not _is_used(files, place):
            entries[default] = None
        else:
            entries[place] = upstream
    for place in sorted(entries):
        path = f"{place}/hosts.toml"
        present = files.read(path)
        if present is None or not present.strip():
            wanted[path] = _whole(request, files, place, entries[place], undo)
        else:
            wanted[path] = _merged(path, present, request.mirror_url)
            remarks.append(f"{path} is the operator's: its hosts are asked after the mirror.")
    return RuntimePlan(wanted, tuple(remarks))


def has_hosts(files: Reader, directory: str) -> list[str]:
    """The registries below `directory` for which it has anything beside files that are wholly p2pd's."""
    return [name for name in sorted(files.names(directory) or ()) if _is_used(files, f"{directory}/{name}")]


def _is_used(files: Reader, place: str) -> bool:
    """Whether the directory of a registry has anything beside a file that is wholly p2pd's."""
    names = files.names(place) or frozenset()
    return bool(names - {"hosts.toml", AUTHORITY}) or files.read(f"{place}/hosts.toml") is not None


def _directory(files: Reader, parent: str, upstream: str) -> str:
    host, colon, port = upstream.rpartition(":")
    underscored = f"{host}_{port}_"
    return f"{parent}/{underscored if colon and underscored in (files.names(parent) or ()) else upstream}"


def _whole(request: Request, files: Reader, place: str, upstream: UpstreamSetting | None, undo: str) -> bytes:
    document = tomlkit.document()
    if upstream is not None:
        server = next((url for url in upstream.urls if url.startswith("http")), None)
        document.update({"server": server} if server else {})
        if server and UpstreamEndpoint.parse(server).project:
            document.update({"override_path": True})  # containerd would append /v2 to the path
        document.update(_certificates(request, files, place, upstream))
    document.add(tomlkit.nl()).add("host", new_table(("host", request.mirror_url), _HOST))
    return marked(undo, document.as_string())


def _certificates(request: Request, files: Reader, place: str, upstream: UpstreamSetting) -> dict[str, Any]:
    """The keys for the certificates of the registry, as containerd's `loadCertFiles` would find them."""
    names = files.names(place) or frozenset()
    authorities = sorted(name for name in names if name.endswith(".crt") and name != AUTHORITY)
    if request.https_proxy is not None and upstream.name != HUB:  # for what dockerd asks the registry itself, by proxy
        authorities.append(f"{place.rpartition('/')[0]}/{upstream.name}/{AUTHORITY}")
    with suppress(NotMountedError):
        if upstream.ca is not None and upstream.ca.is_absolute() and files.read(str(upstream.ca)) is not None:
            authorities.append(str(upstream.ca))
    pairs = [
        [name, key if (key := f"{name.removesuffix('.cert')}.key") in names else name]
        for name in sorted(names)
        if name.endswith(".cert")
    ]
    return {name: value for name, value in (("ca", authorities), ("client", pairs)) if value}


def _merged(path: str, present: bytes, mirror_url: str) -> bytes:
    """The operator's file with our host before the others; unchanged if the mirror is one of them already."""
    values = parse(path, present)
    hosts = table(values, ("host",))
    if mirror_url in hosts:
        return present
    ours = new_table(("host", mirror_url), _HOST)

    def edit(document: tomlkit.TOMLDocument) -> None:
        tables = (
            at
            for at, (key, item) in enumerate(document.body)
            if isinstance(item, Table | AoT) and key is not None and not key.is_dotted()
        )
        at = next(tables, len(document.body))
        comment = tomlkit.comment(COMMENT.removeprefix("# "))
        document.body[at:at] = [(None, comment), (tomlkit.key("host"), ours), (None, tomlkit.nl())]

    def is_wanted(result: dict[str, Any]) -> bool:
        is_first = next(iter(table(result, ("host",))), None) == mirror_url
        return is_first and result == {**values, "host": {mirror_url: _HOST, **hosts}}

    by_hand = f"Add this by hand before its first [host...]:\n{tomlkit.document().add('host', ours).as_string()}"
    return edited(path, present, edit, is_wanted, by_hand)
