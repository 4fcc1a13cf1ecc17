"""podman, Buildah, skopeo and CRI-O: a drop-in for registries.conf, one file for all of them.

These clients do not name an image's registry in requests, so each mirror's location begins with the registry's name:
`127.0.0.1:65001/docker.io`. Their grammar has no colon in a path: the mirror takes `harbor.corp__5001` for
`harbor.corp:5001`. A prefix such as `*.corp` is no way to mirror every registry, since the location then takes the
registry's place in the request. They strip credentials for mirrors, and go on to the registry itself without p2pd.

A [[registry]] of the same prefix in a later file replaces the earlier one whole (containers-registries.conf.d(5)). So
if the operator has such a table, nothing is written, and the error has the lines to add.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from p2pd.configure.runtime import ConfigureError, Reader, Request, Runtime, RuntimePlan, marked
from p2pd.configure.toml_file import parse
from peer.oci.reference import parse_upstream_name, upstream_as_component

MAIN: Final = "/etc/containers/registries.conf"
DROP_INS: Final = "/etc/containers/registries.conf.d"
OURS: Final = f"{DROP_INS}/90-p2pd.conf"
"""90 sorts behind the files of distributions. By systemd's convention, 60 to 90 are the operator's."""


def plan(request: Request, files: Reader) -> RuntimePlan:
    """Raises ConfigureError if a registry is configured elsewhere without the mirror, or if a file is no TOML."""
    elsewhere = _configured(files)
    tables = []
    for upstream in request.upstream_names:
        location = f"{request.mirror_host}/{upstream_as_component(parse_upstream_name(upstream))}"
        # `insecure` is for plain HTTP, which does not leave this machine.
        mirror = f'[[registry.mirror]]\nlocation = "{location}"\ninsecure = true\n'
        path, locations = elsewhere.get(upstream, ("", frozenset()))
        if path and location not in locations:
            raise ConfigureError(
                f"{path} says already how {upstream} is pulled, and a second [[registry]] would take its place; "
                f"nothing was changed. Add this below that one by hand:\n{mirror}"
            )
        if not path:
            tables.append(
                f'\n[[registry]]\nprefix = "{upstream}"\nlocation = "{upstream}"\n{mirror}',
            )
    return RuntimePlan({OURS: marked("podman", "".join(tables))} if tables else {})


def _configured(files: Reader) -> dict[str, tuple[str, frozenset[str]]]:
    """By prefix, each [[registry]] of a foreign file: the file, and the locations of its mirrors."""
    drop_ins = sorted(f"{DROP_INS}/{name}" for name in files.names(DROP_INS) or () if name.endswith(".conf"))
    found = {}
    for path in [MAIN, *(path for path in drop_ins if path != OURS)]:
        content = files.read(path)
        for registry in _tables(parse(path, content).get("registry")) if content is not None else ():
            prefix = str(registry.get("prefix") or registry.get("location", ""))
            locations = frozenset(str(mirror.get("location")) for mirror in _tables(registry.get("mirror")))
            found[prefix] = (path, locations)
    return found


def _tables(value: object) -> tuple[dict[str, Any], ...]:
    return tuple(one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()


PODMAN: Final = Runtime(
    name="podman",
    journal="containers",
    plan=plan,
    programs=("podman",),
    families=("podman", "containers", "libpod"),
    activation={OURS: "podman reads it for each command; CRI-O, which has the same file, on systemctl reload crio"},
    no_wildcard="registries.conf takes the registry out of the request, so each registry needs a mirror of its own",
)

CRIO: Final = replace(
    PODMAN,
    name="crio",
    programs=("crio",),
    families=("crio", "cri-o"),
)
