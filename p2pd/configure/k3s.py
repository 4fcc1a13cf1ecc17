"""k3s and RKE2: registries.yaml, from which they write the hosts.toml of their own containerd.

In an operator's own file, the mirror is put before the endpoints of each registry. A registry that the file does not
name has the endpoints of "*", if that is there: the mirror is put before these, since an entry of the registry's own
would hide them. An entry with `rewrite` is refused: the mirror would be asked for the repository's other name.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Final

from p2pd.configure import yaml_file
from p2pd.configure.runtime import ConfigureError, Reader, Request, Runtime, RuntimePlan, marked, text_of

EVERY: Final = "*"


def plan(name: str, request: Request, files: Reader) -> RuntimePlan:
    """`name` is k3s or rke2. Raises ConfigureError if there is a registries.yaml that cannot be changed safely."""
    config = _config(name)
    names = [*request.upstream_names, *([EVERY] if request.wildcard else [])]
    present = files.read(config)
    if present is None or not present.strip():
        return RuntimePlan({config: marked(name, _entries(names, request.mirror_url))})
    text = text_of(config, present)
    values = yaml_file.parse(config, present)
    mirrors = values.get("mirrors") or {}
    for each in names:
        entry = each if not isinstance(mirrors, dict) or each in mirrors or EVERY not in mirrors else EVERY
        endpoints = _endpoints(config, mirrors, entry)
        if request.mirror_url in [str(endpoint).rstrip("/") for endpoint in endpoints]:
            continue
        try:
            text = yaml_file.with_first(text, ("mirrors", entry, "endpoint"), request.mirror_url)
        except ValueError as error:
            raise ConfigureError(_by_hand(config, entry, mirrors, request.mirror_url, str(error))) from None
        mirrors = yaml_file.loads(text)["mirrors"]
    return RuntimePlan(
        {config: text.encode()}, (f"{config} is the operator's: its endpoints are asked after the mirror.",)
    )


def _entries(names: list[str], mirror_url: str) -> str:
    entries = (f"  {json.dumps(name)}:\n    endpoint:\n      - {json.dumps(mirror_url)}\n" for name in names)
    return f"mirrors:\n{''.join(entries)}"


def _endpoints(config: str, mirrors: Any, name: str) -> list[Any]:
    """The endpoints of an entry. Raises ConfigureError if the mirror must not be one of them."""
    entry = mirrors.get(name) or {} if isinstance(mirrors, dict) else {}
    if isinstance(entry, dict) and entry.get("rewrite"):
        raise ConfigureError(
            f"{config} rewrites the repositories of {name}, so the mirror would be asked for others than are meant; "
            "nothing was changed. Make the registry that has them an upstream of p2pd, and take the rewrite out"
        )
    endpoints = entry.get("endpoint") if isinstance(entry, dict) else None
    return endpoints if isinstance(endpoints, list) else []


def _by_hand(config: str, name: str, mirrors: Any, mirror_url: str, reason: str) -> str:
    """What to paste, and where: without a key that the file has already."""
    lines = _entries([name], mirror_url).splitlines()
    if isinstance(mirrors, dict) and name in mirrors:
        where, lines = f"as the first endpoint of {name}", [lines[-1]]
    elif isinstance(mirrors, dict) and mirrors:
        where, lines = 'directly below its line "mirrors:"', lines[1:]
    else:
        where = 'in place of its "mirrors", if it has that'
    added = "\n".join(lines)
    return f"{config}: {reason}; nothing was changed. Add this {where}:\n{added}"


def _config(name: str) -> str:
    return f"/etc/rancher/{name}/registries.yaml"


def _runtime(name: str, services: str) -> Runtime:
    return Runtime(
        name=name,
        journal=name,
        plan=partial(plan, name),
        programs=(name,),
        families=("containerd",),
        activation={_config(name): f"{name} reads it only when it starts: systemctl restart {services}"},
    )


K3S: Final = _runtime("k3s", "k3s (or k3s-agent; pods keep running)")
RKE2: Final = _runtime("rke2", "rke2-server (or rke2-agent; pods keep running)")
