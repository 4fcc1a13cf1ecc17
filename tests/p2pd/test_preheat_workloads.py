"""The images of Kubernetes YAML."""

from __future__ import annotations

import pytest

from p2pd.preheat.workloads import WorkloadError, images_in

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      initContainers: [{name: a, image: ghcr.io/team/init:v1}]
      containers:
        - {name: b, image: alpine}
        - {name: c, image: alpine}
        - {name: d}
      volumes: [{name: v, image: {reference: "quay.io/team/data@sha256:%s"}}]
---
kind: List
items:
  - kind: CronJob
    spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: "busybox:1"}]}}}}}
---
""" % ("0" * 64)


def test_every_kind_of_workload() -> None:
    expected = ["ghcr.io/team/init:v1", "alpine", f"quay.io/team/data@sha256:{'0' * 64}", "busybox:1"]
    assert images_in(DEPLOYMENT, "app.yaml") == expected


def test_aliases_are_read_once() -> None:
    """Else this would take longer than the universe has."""
    bomb = "a0: &a0 {containers: [{image: alpine}]}\n"
    bomb += "".join(f"a{at}: &a{at} [*a{at - 1}, *a{at - 1}, *a{at - 1}]\n" for at in range(1, 200))
    assert images_in(bomb, "bomb.yaml") == ["alpine"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no containers with images"),
        ("kind: ConfigMap", "has no containers with images"),
        ("image: {{ .Values.image }}\n  x: y", "is no YAML: of a Helm chart"),
        ("containers: [{image: UPPER CASE}]", "repository"),
        ("[" * 5000, "is"),
        ("!!python/object/apply:os.system [id]", "is no YAML"),
    ],
)
def test_what_has_no_images(text: str, reason: str) -> None:
    with pytest.raises(WorkloadError, match=reason):
        images_in(text, "app.yaml")
