"""The runtimes that `p2pd configure` knows, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from p2pd.configure import buildkit, containerd, docker, k3s, registries_conf
from p2pd.configure.runtime import Runtime

RUNTIMES: Final[Mapping[str, Runtime]] = {
    runtime.name: runtime
    for runtime in (
        docker.RUNTIME,
        containerd.RUNTIME,
        registries_conf.PODMAN,
        registries_conf.CRIO,
        buildkit.RUNTIME,
        k3s.K3S,
        k3s.RKE2,
    )
}
