"""podman, Buildah, skopeo and CRI-O: a drop-in for registries.conf, one file for all of them.

These clients do not name an image's registry in requests, so each mirror's location begins with the registry's name:
`127.0.0.1:65001/docker.io`. Their grammar has no colon in a path: the mirror takes `harbor.corp__5001` for
`harbor.corp:5001`. Before that they ask for `/v2/`, without the name, so each upstream but the first has an address of
its own (p2pd.config.own_addresses). A prefix such as `*.corp` is no way to mirror every registry, since the location
then takes the registry's place in the request. They strip credentials for mirrors, and go on to the registry itself
without p2pd.

A [[registry]] of the same prefix in a later file replaces the earlier one whole (containers-registries.conf.d(5)). So
if the operator has such a table, our mirror is put before its mirrors, in its file. A table of a longer prefix
(`docker.io/library`) is another such table: without a mirror of its own, its images would pass by p2pd. Left alone are
a registry that is blocked, and one whose images come from another location: the mirror would bring others.

Each of podman and CRI-O has a drop-in of its own, though each reads both: undoing one leaves the other's.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from p2pd.configure.runtime import COMMENT, ConfigureError, Reader, Request, Runtime, RuntimePlan, marked
from p2pd.configure.toml_file import parse
from peer.oci.reference import parse_upstream_name, upstream_as_component

MAIN: Final = "/etc/containers/registries.conf"
DROP_INS: Final = "/etc/containers/registries.conf.d"
OURS: Final[Mapping[str, str]] = {"podman": f"{DROP_INS}/90-p2pd.conf", "crio": f"{DROP_INS}/90-p2pd-crio.conf"}
"""90 sorts behind the files of distributions. By systemd's convention, 60 to 90 are the operator's."""


@dataclass(frozen=True, slots=True)
class _Registry:
    """A [[registry]] of an operator's file, which is the one of that prefix that counts."""

    path: str
    index: int
    prefix: str
    values: dict[str, Any]

    @property
    def mirrors(self) -> frozenset[str]:
        return frozenset(str(mirror.get("location")) for mirror in _tables(self.values.get("mirror")))


def plan(name: str, request: Request, files: Reader) -> RuntimePlan:
    """`name` is podman or crio. Raises ConfigureError if a file is no TOML, or no mirror can be added to it."""
    wanted: dict[str, bytes] = {}
    tables, remarks = [], []
    registries = _configured(files)
    for upstream in request.upstream_names:
        location = f"{request.host_for(upstream)}/{upstream_as_component(parse_upstream_name(upstream))}"
        for registry in registries.values():
            if registry.prefix == upstream or registry.prefix.startswith(f"{upstream}/"):
                mirror = _mirror(location + registry.prefix.removeprefix(upstream))
                if remark := _reason_to_leave(name, registry, upstream, mirror):
                    remarks.append(remark)
                elif mirror["location"] not in registry.mirrors:
                    content = wanted.get(registry.path) or files.read(registry.path) or b""
                    wanted[registry.path] = _with_mirror(registry, content, mirror)
                    remarks.append(
                        f"{registry.path} is the operator's: the mirror is the first of {registry.prefix} in it."
                    )
        if upstream not in registries:
            mirror_text = _text(_mirror(location))
            tables.append(f'\n[[registry]]\nprefix = "{upstream}"\nlocation = "{upstream}"\n{mirror_text}')
    path = OURS[name]
    present = wanted.get(path) or files.read(path) or b""
    if tables and present.strip():  # others have put something into it
        wanted[path] = present.rstrip(b"\n") + "".join(["\n", *(f"\n{COMMENT}{one}" for one in tables)]).encode()
    elif tables:
        wanted[path] = marked(name, f"# podman, CRI-O, Buildah and skopeo all read it.\n{''.join(tables)}")
    return RuntimePlan(wanted, tuple(remarks))


def _mirror(location: str) -> dict[str, Any]:
    return {"location": location, "insecure": True}  # for plain HTTP, which does not leave this machine


def _text(mirror: dict[str, Any]) -> str:
    return f'[[registry.mirror]]\nlocation = "{mirror["location"]}"\ninsecure = true\n'


def _reason_to_leave(name: str, registry: _Registry, upstream: str, mirror: dict[str, Any]) -> str:
    """Why no mirror is put into the [[registry]]; empty if one is. Raises ConfigureError if that is a failure."""
    path, prefix = registry.path, registry.prefix
    location = str(registry.values.get("location") or prefix)
    if registry.values.get("blocked") is True:
        return f"{path} blocks {prefix}, so {name} pulls nothing of it, from the mirror neither."
    if location == prefix or mirror["location"] in registry.mirrors:
        return ""
    if prefix != upstream:
        return f"{path} has images of {prefix} come from {location}: {name} does not ask the mirror for them."
    raise ConfigureError(
        f"{path} has images of {prefix} come from {location}, and those of the mirror are from {upstream}; nothing was "
        f"changed. If they are the same, add this below that [[registry]], before its mirrors:\n{_text(mirror)}"
    )


def _with_mirror(registry: _Registry, content: bytes, mirror: dict[str, Any]) -> bytes:
    """`content` with the mirror before those of the [[registry]], and every other line as it is.

    The place is the first at which TOML makes of it what is wanted.
    """
    wanted = copy.deepcopy(parse(registry.path, content))
    wanted["registry"][registry.index]["mirror"] = [mirror, *_tables(registry.values.get("mirror"))]
    lines = content.decode().splitlines(keepends=True)
    newline = "\r\n" if lines[0].endswith("\r\n") else "\n"
    added = f"\n{COMMENT}\n{_text(mirror)}".replace("\n", newline)
    if not lines[-1].endswith("\n"):
        lines[-1] += newline
    for at, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            text = "".join([*lines[:at], added, *lines[at:]])
            try:
                if tomllib.loads(text) == wanted:
                    return text.encode()
            except tomllib.TOMLDecodeError:
                continue
    raise ConfigureError(
        f"{registry.path} has a [[registry]] for {registry.prefix} that is written in a way that p2pd cannot change "
        f"safely; nothing was changed. Add this to it by hand, before its mirrors:\n{_text(mirror)}"
    )


def _configured(files: Reader) -> dict[str, _Registry]:
    """By prefix, the [[registry]] tables of foreign files; the last file of a prefix counts."""
    drop_ins = sorted(f"{DROP_INS}/{name}" for name in files.names(DROP_INS) or () if name.endswith(".conf"))
    found = {}
    for path in [MAIN, *drop_ins]:
        content = files.read(path)
        for index, registry in enumerate(_tables(parse(path, content).get("registry")) if content is not None else ()):
            prefix = str(registry.get("prefix") or registry.get("location", ""))
            found[prefix] = _Registry(path, index, prefix, registry)
    return found


def _tables(value: object) -> tuple[dict[str, Any], ...]:
    return tuple(one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()


def _runtime(name: str, *, activation: str, families: tuple[str, ...]) -> Runtime:
    return Runtime(
        name=name,
        journal="containers",
        plan=partial(plan, name),
        programs=(name,),
        families=families,
        activation=dict.fromkeys((MAIN, OURS[name]), activation),
        no_wildcard="registries.conf takes the registry out of the request, so each registry needs a mirror of its own",
    )


PODMAN: Final = _runtime(
    "podman", activation="podman reads it for each command", families=("podman", "containers", "libpod")
)
CRIO: Final = _runtime(
    "crio", activation="CRI-O reads it when it starts and on systemctl reload crio", families=("crio", "cri-o")
)
