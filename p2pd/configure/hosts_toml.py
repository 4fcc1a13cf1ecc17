"""`certs.d/<registry>/hosts.toml`: how containerd, and dockerd with its containerd image store, are told of a mirror.

Rules:
1. A file that is not there is written whole. It names the upstream as `server`, so that a pull goes on without p2pd.
2. In an operator's own file our host is put before all others and nothing else is touched: what was asked until now is
   asked whenever the mirror does not have it. (Spegel does so with `--prepend-existing`; without it, it moves the
   operator's hosts away. We never do.)
3. The directory of a registry is the first that containerd would find, `host_port_` before `host:port`. With a
   hosts.toml in it, containerd no longer looks for `*.crt` and `*.cert` there, so the file names those that are.
4. `capabilities` are pull and resolve: nothing is ever pushed to a mirror.

The format: containerd, docs/hosts.md and core/remotes/docker/config/hosts.go. A key that a version does not know, it
passes over.
"""

from __future__ import annotations

import json
import tomllib
from typing import Final

from p2pd.config.values import UpstreamSetting
from p2pd.configure.runtime import ConfigureError, Reader, Request, RuntimePlan, marked, text_of
from p2pd.configure.toml_text import headers, parse, table

DIAL_TIMEOUT: Final = "1s"
"""For the dial to this machine: refused at once where nobody listens, so it bounds only a mirror that accepts nothing
any more. containerd's own default is 30 s. Known since containerd 2.1."""

WILDCARD: Final = "_default"
"""containerd's name for the directory of all registries that have none of their own."""


def plan(request: Request, files: Reader, directory: str, undo: str) -> RuntimePlan:
    """The hosts.toml of each upstream below `directory`; `undo` names the runtime for `p2pd configure`.

    Raises ConfigureError for an operator's file that is no TOML or cannot be changed safely.
    """
    wanted: dict[str, bytes] = {}
    remarks = []
    entries: list[tuple[str, UpstreamSetting | None]] = [
        (_directory(files, directory, upstream.name), upstream) for upstream in request.upstreams
    ]
    if request.wildcard:
        entries.append((f"{directory}/{WILDCARD}", None))
    for place, upstream in entries:
        path = f"{place}/hosts.toml"
        present = files.read(path)
        if present is None or not present.strip():
            wanted[path] = _whole(request, files, place, upstream, undo)
        else:
            wanted[path] = _merged(path, present, request.mirror_url)
            remarks.append(f"{path} is the operator's: its hosts are asked after the mirror.")
    default = files.read(f"{directory}/{WILDCARD}/hosts.toml")
    if default is not None and not request.wildcard:
        remarks.append(
            f"{directory}/{WILDCARD}/hosts.toml no longer counts for {', '.join(request.upstream_names)}: "
            "containerd reads one directory per registry."
        )
    return RuntimePlan(wanted, tuple(remarks))


def _directory(files: Reader, parent: str, upstream: str) -> str:
    host, colon, port = upstream.rpartition(":")
    underscored = f"{host}_{port}_"
    return f"{parent}/{underscored if colon and underscored in (files.names(parent) or ()) else upstream}"


def _whole(request: Request, files: Reader, place: str, upstream: UpstreamSetting | None, undo: str) -> bytes:
    lines: list[str] = []
    if upstream is not None:
        server = next((url for url in upstream.urls if url.startswith("http")), None)
        lines += [f"server = {_quoted(server)}\n"] if server else []
        lines += _certificates(files, place, upstream)
    return marked(undo, "".join([*lines, "\n", _host(request.mirror_url)]))


def _certificates(files: Reader, place: str, upstream: UpstreamSetting) -> list[str]:
    """The keys for the certificates of the registry, as containerd's `loadCertFiles` would find them."""
    names = files.names(place) or frozenset()
    authorities = sorted(name for name in names if name.endswith(".crt"))
    if upstream.ca is not None and upstream.ca.is_absolute() and files.read(str(upstream.ca)) is not None:
        authorities.append(str(upstream.ca))
    pairs = [
        [name, key if (key := f"{name.removesuffix('.cert')}.key") in names else name]
        for name in sorted(names)
        if name.endswith(".cert")
    ]
    lines = [f"ca = {json.dumps(authorities)}\n"] if authorities else []
    return [*lines, *([f"client = {json.dumps(pairs)}\n"] if pairs else [])]


def _merged(path: str, present: bytes, mirror_url: str) -> bytes:
    """The operator's file with our host before the others; unchanged if the mirror is one of them already."""
    before = parse(path, present)
    hosts = table(before, ("host",))
    if mirror_url in hosts:
        return present
    lines = text_of(path, present).splitlines(keepends=True)
    first = next((index for index, _ in headers(lines)), len(lines))
    if first == len(lines) and lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    block = f"# Added by `p2pd configure`.\n{_host(mirror_url)}\n"
    after = "".join([*lines[:first], block, *lines[first:]])
    ours = tomllib.loads(_host(mirror_url))["host"]
    try:
        result = tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        result = {}
    if result != {**before, "host": {**ours, **hosts}} or next(iter(result["host"])) != mirror_url:
        raise ConfigureError(
            f"{path} is written in a way that p2pd cannot change safely; nothing was changed. "
            f"Add this by hand before its first [host...]:\n{_host(mirror_url)}"
        )
    return after.encode()


def _host(mirror_url: str) -> str:
    return (
        f"[host.{_quoted(mirror_url)}]\n"
        '  capabilities = ["pull", "resolve"]\n'
        f"  dial_timeout = {_quoted(DIAL_TIMEOUT)}\n"
    )


def _quoted(text: str) -> str:
    """A TOML string. JSON's escapes are among TOML's."""
    return json.dumps(text)
