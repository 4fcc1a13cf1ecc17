"""docker/kubernetes.yaml and kubernetes-undo.yaml, made from the chart: `make docs` writes them, a test compares."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.real.helm import Helm, without_helms_lines

DOCKER: Final = Path(__file__).parents[2] / "docker"
MADE: Final = """\
# Made from the chart docker/helm/p2pd by `make docs`. registry.example/p2pd is to be the name of your image."""

MANIFEST_HEAD: Final = f"""\
# p2pd on every node of a cluster that runs containerd, without Helm:
#   kubectl apply -f docker/kubernetes.yaml && kubectl -n p2pd rollout status ds/p2pd
{MADE}
# After a change to the ConfigMap: kubectl -n p2pd rollout restart ds/p2pd
"""
UNDO_HEAD: Final = f"""\
# Takes back on every node what docker/kubernetes.yaml did there, and empties the caches:
#   kubectl -n p2pd delete ds/p2pd && kubectl apply -f docker/kubernetes-undo.yaml
#   kubectl -n p2pd wait --for=condition=complete --timeout=5m job/p2pd-undo
#   kubectl delete -f docker/kubernetes.yaml
{MADE}
"""


def manifests(helm: Helm) -> dict[str, str]:
    """Each file's content."""
    own = {"namespace": {"create": True}}
    plain = helm.text(own, "--no-hooks")
    undo = helm.text(own, "--show-only", "templates/undo.yaml")
    return {
        "kubernetes.yaml": MANIFEST_HEAD + without_helms_lines(plain),
        "kubernetes-undo.yaml": UNDO_HEAD + without_helms_lines(undo),
    }


if __name__ == "__main__":
    with TemporaryDirectory() as home:
        for file, text in manifests(Helm(Path(home))).items():
            (DOCKER / file).write_text(text)
