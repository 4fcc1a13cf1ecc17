"""k3s: registries.yaml, from which k3s writes the hosts.toml of its own containerd.

p2pd has no YAML library, and a guess must not change YAML. So an operator's registries.yaml is left alone, and the
error has the lines to add.
"""

from __future__ import annotations

import json
from typing import Final

from p2pd.configure.runtime import ConfigureError, Reader, Request, Runtime, RuntimePlan, marked

CONFIG: Final = "/etc/rancher/k3s/registries.yaml"


def plan(request: Request, files: Reader) -> RuntimePlan:
    """Raises ConfigureError if there is a registries.yaml that is not ours."""
    names = [*request.upstream_names, *(["*"] if request.wildcard else [])]
    entries = "".join(
        f"  {json.dumps(name)}:\n    endpoint:\n      - {json.dumps(request.mirror_url)}\n" for name in names
    )
    present = files.read(CONFIG)
    if present is not None and present.strip():
        if all(entry in present.decode(errors="replace") for entry in [request.mirror_url, *names]):
            return RuntimePlan(
                {}, (f"{CONFIG} is the operator's and names the mirror and each upstream: left as it is.",)
            )
        raise ConfigureError(
            f"{CONFIG} is the operator's own, and p2pd does not change YAML; nothing was changed. "
            f"Add this to it by hand:\nmirrors:\n{entries}"
        )
    return RuntimePlan({CONFIG: marked("k3s", f"mirrors:\n{entries}")})


RUNTIME: Final = Runtime(
    name="k3s",
    journal="k3s",
    plan=plan,
    programs=("k3s",),
    families=("containerd",),
    activation={CONFIG: "k3s reads it only when it starts: systemctl restart k3s (or k3s-agent; pods keep running)"},
)
