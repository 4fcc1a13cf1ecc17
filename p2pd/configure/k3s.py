"""k3s and RKE2: registries.yaml, from which they write the hosts.toml of their own containerd.

p2pd has no YAML library, and a guess must not change YAML. So an operator's registries.yaml is left alone, and the
error has the lines to add.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Final

from p2pd.configure.runtime import ConfigureError, Reader, Request, Runtime, RuntimePlan, marked


def plan(name: str, request: Request, files: Reader) -> RuntimePlan:
    """`name` is k3s or rke2. Raises ConfigureError if there is a registries.yaml that is not ours."""
    config = _config(name)
    names = [*request.upstream_names, *(["*"] if request.wildcard else [])]
    entries = "".join(
        f"  {json.dumps(name)}:\n    endpoint:\n      - {json.dumps(request.mirror_url)}\n" for name in names
    )
    present = files.read(config)
    if present is not None and present.strip():
        if all(entry in present.decode(errors="replace") for entry in [request.mirror_url, *names]):
            return RuntimePlan(
                {}, (f"{config} is the operator's and names the mirror and each upstream: left as it is.",)
            )
        raise ConfigureError(
            f"{config} is the operator's own, and p2pd does not change YAML; nothing was changed. "
            f"Add this to it by hand:\nmirrors:\n{entries}"
        )
    return RuntimePlan({config: marked(name, f"mirrors:\n{entries}")})


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
