"""containerd: a hosts.toml for each upstream, and `config_path` in config.toml so that its CRI plugin reads them.

The trap (containerd issues 12415 and 12636): the default since 2.2 is "/etc/containerd/certs.d:/etc/docker/certs.d".
The transfer service takes that as the name of one directory, and never asks a mirror. `config_path` has to be one
directory. If the operator has set a single directory, it is kept and gets the hosts.toml files. Of several, the one
that has anything in it is kept. If more than one has, containerd would no longer find a part of it: that is refused.

`ctr` and nerdctl do not read config.toml: they take `--hosts-dir`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from p2pd.configure import hosts_toml
from p2pd.configure.runtime import ConfigureError, NotMountedError, Reader, Request, Runtime, RuntimePlan, marked
from p2pd.configure.toml_file import parse, table, with_value

CONFIG: Final = "/etc/containerd/config.toml"
CERTS_D: Final = "/etc/containerd/certs.d"
DEFAULT: Final = f"{CERTS_D}:/etc/docker/certs.d"
"""Of containerd since 2.2, also as `containerd config default` writes it."""
DROP_INS: Final = "/etc/containerd/conf.d"

_CRI_V2: Final = "io.containerd.grpc.v1.cri"
_CRI_V3: Final = "io.containerd.cri.v1.images"
REGISTRY: Final = {
    1: ("plugins", "cri", "registry"),  # a file without `version` is one of version 1
    2: ("plugins", _CRI_V2, "registry"),  # containerd 1.3 and later; 2.x still reads it
    3: ("plugins", _CRI_V3, "registry"),  # containerd 2.0
    4: ("plugins", _CRI_V3, "registry"),  # containerd 2.3: only the server's own keys moved
}
"""The table of the CRI plugin that has `config_path`, by the `version` of config.toml."""

_NEW: Final = marked("containerd", f'version = 2\n\n[plugins."{_CRI_V2}".registry]\n  config_path = "{CERTS_D}"\n')
"""Version 2 is read by every containerd since 1.3."""


def plan(request: Request, files: Reader) -> RuntimePlan:
    """Raises ConfigureError for a config.toml that cannot be changed safely, or that forbids config_path."""
    content = files.read(CONFIG)
    if content is None:
        drop_ins = sorted(name for name in files.names(DROP_INS) or () if name.endswith(".toml"))
        if drop_ins:
            raise ConfigureError(
                f"{DROP_INS} has {', '.join(drop_ins)} but there is no {CONFIG} to import it: "
                f"write one first (containerd config default > {CONFIG}); nothing was changed"
            )
        hosts = hosts_toml.plan(request, files, CERTS_D, "containerd")
        return replace(hosts, files={**hosts.files, CONFIG: _NEW})
    values = parse(CONFIG, content)
    if {"cri", _CRI_V2, _CRI_V3} & set(map(str, values.get("disabled_plugins", []))):
        hosts = hosts_toml.plan(request, files, CERTS_D, "containerd")
        remark = (
            f"{CONFIG} was left alone: it disables the CRI plugin. ctr and nerdctl take --hosts-dir {CERTS_D}; "
            "dockerd has its own directory: p2pd configure docker."
        )
        return replace(hosts, remarks=(*hosts.remarks, remark))
    keys = registry_keys(values)
    _refuse_old_mirrors(table(values, keys))
    directory, unseen = _directory(config_path(values), files)
    hosts = hosts_toml.plan(request, files, directory, "containerd")
    remarks = [*hosts.remarks, *unseen]
    if values.get("imports"):
        remarks.append(
            f"{CONFIG} imports other files, which may set config_path too; "
            "containerd config dump | grep config_path shows what counts."
        )
    changed = content
    if config_path(values) != directory:
        changed = with_value(CONFIG, content, keys, "config_path", directory)
    return RuntimePlan({**hosts.files, CONFIG: changed}, tuple(remarks))


def registry_keys(values: dict[str, Any]) -> tuple[str, ...]:
    """The table that has `config_path`. Raises ConfigureError for a version that p2pd does not know."""
    version = values.get("version", 1)
    if version not in REGISTRY:
        raise ConfigureError(
            f"{CONFIG} is of version {version}, which p2pd does not know; nothing was changed. "
            f'Set config_path = "{CERTS_D}" for the CRI plugin\'s registry by hand.'
        )
    return REGISTRY[version]


def config_path(values: dict[str, Any]) -> str:
    """The `config_path` of config.toml; empty if it is not set."""
    return str(table(values, registry_keys(values)).get("config_path", ""))


def _directory(listed: str, files: Reader) -> tuple[str, tuple[str, ...]]:
    """The one directory of the `config_path` that has anything in it, else its first, and what is to be remarked.

    Raises ConfigureError if several have, or if a directory that an operator has listed cannot be seen.
    """
    used, remarks = {}, []
    directories = [one for one in listed.split(":") if one.startswith("/")] or [CERTS_D]
    for directory in directories:
        try:
            registries = hosts_toml.has_hosts(files, directory)
        except NotMountedError:
            if listed != DEFAULT or directory == CERTS_D:
                raise
            remarks.append(
                f"{directory} is not mounted here: what is in it counts for containerd if it is in {CERTS_D}."
            )
            continue
        if registries:
            used[directory] = registries
    first, *others = used or directories
    if used and others:
        has = "; ".join(f"{directory} has {', '.join(registries)}" for directory, registries in used.items())
        copies = "\n".join(f"cp -an {other}/. {first}/" for other in others)
        raise ConfigureError(
            f"{CONFIG}: config_path lists several directories that are in use ({has}). containerd's transfer service "
            "takes the list for the name of one directory, and p2pd does not choose which of them no longer counts; "
            f'nothing was changed. Copy all into one, set config_path = "{first}", and run this again:\n{copies}'
        )
    return first, tuple(remarks)


def _refuse_old_mirrors(registry: dict[str, Any]) -> None:
    """Refuse the keys beside which `config_path` keeps containerd's CRI plugin from loading (ValidateImageConfig)."""
    configs = table(registry, ("configs",))
    has_tls = any("tls" in one for one in configs.values() if isinstance(one, dict))
    if registry.get("mirrors") or has_tls:
        raise ConfigureError(
            f"{CONFIG} has registry.mirrors or registry.configs.*.tls, beside which containerd refuses config_path: "
            f"move them to {CERTS_D}/<registry>/hosts.toml first; nothing was changed"
        )


RUNTIME: Final = Runtime(
    name="containerd",
    journal="containerd",
    plan=plan,
    programs=("containerd",),
    families=("containerd",),
    activation={
        CONFIG: "containerd reads it only when it starts: systemctl restart containerd (containers keep running)"
    },
)
