"""The JSON schemas in tests/real/schemas, made from packages: Kubernetes' own, and those of the operators' resources.

    pip download --no-deps kubernetes-validate==1.37.0
    go mod download github.com/prometheus-operator/prometheus-operator@v0.85.0 github.com/cilium/cilium@v1.18.0
    python -m tests.real.vendor_schemas WHEEL $(go env GOMODCACHE)/github.com

What is kept is what the chart's kinds refer to, without descriptions. Fields that are not named are refused, as strict
clients of Kubernetes do.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

import yaml

SCHEMAS: Final = Path(__file__).parent / "schemas"
VERSIONS: Final = ("1.27", "1.37")
"""The first that the chart says it runs on, and the newest in the wheel."""

KINDS: Final = {
    "io.k8s.api.apps.v1.DaemonSet": ("apps/v1", "DaemonSet"),
    "io.k8s.api.apps.v1.Deployment": ("apps/v1", "Deployment"),
    "io.k8s.api.batch.v1.Job": ("batch/v1", "Job"),
    "io.k8s.api.core.v1.ConfigMap": ("v1", "ConfigMap"),
    "io.k8s.api.core.v1.Namespace": ("v1", "Namespace"),
    "io.k8s.api.core.v1.PersistentVolumeClaim": ("v1", "PersistentVolumeClaim"),
    "io.k8s.api.core.v1.Secret": ("v1", "Secret"),
    "io.k8s.api.core.v1.Service": ("v1", "Service"),
    "io.k8s.api.core.v1.ServiceAccount": ("v1", "ServiceAccount"),
    "io.k8s.api.networking.v1.NetworkPolicy": ("networking.k8s.io/v1", "NetworkPolicy"),
    "io.k8s.api.policy.v1.PodDisruptionBudget": ("policy/v1", "PodDisruptionBudget"),
    "io.k8s.api.rbac.v1.Role": ("rbac.authorization.k8s.io/v1", "Role"),
    "io.k8s.api.rbac.v1.RoleBinding": ("rbac.authorization.k8s.io/v1", "RoleBinding"),
}
PROMETHEUS: Final = "prometheus-operator/prometheus-operator@v0.85.0/example/prometheus-operator-crd"
OPERATORS: Final = (
    f"{PROMETHEUS}/monitoring.coreos.com_podmonitors.yaml",
    f"{PROMETHEUS}/monitoring.coreos.com_prometheusrules.yaml",
    "cilium/cilium@v1.18.0/pkg/k8s/apis/cilium.io/client/crds/v2/ciliumnetworkpolicies.yaml",
)


def of_kubernetes(wheel: zipfile.ZipFile, version: str) -> dict[str, Any]:
    """The definitions that the kinds refer to, and `kinds`: the definition of each."""
    place = f"kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict/_definitions.json"
    known = json.loads(wheel.read(place))["$defs"]
    kept: dict[str, Any] = {}
    wanted = list(KINDS)
    while wanted:
        name = wanted.pop()
        if name not in kept:
            kept[name] = _bare(known[name])
            wanted += [part.rpartition("/")[2] for part in _references(kept[name])]
    return {"$defs": dict(sorted(kept.items())), "kinds": [[*kind, name] for name, kind in KINDS.items()]}


def of_operators(modules: Path) -> dict[str, Any]:
    """The same of the custom resources, each at its served version."""
    definitions: dict[str, Any] = {}
    kinds: list[list[str]] = []
    for file in OPERATORS:
        spec = yaml.safe_load((modules / file).read_text())["spec"]
        version = next(each for each in spec["versions"] if each["storage"])
        name, kind = f"{spec['group']}.{spec['names']['kind']}", spec["names"]["kind"]
        definitions[name] = _closed(_bare(version["schema"]["openAPIV3Schema"]))
        definitions[name]["properties"]["metadata"] = {
            "type": "object",
            "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}, "labels": {"type": "object"}},
            "additionalProperties": False,
        }
        kinds.append([f"{spec['group']}/{version['name']}", kind, name])
    return {"$defs": definitions, "kinds": kinds}


def _bare(schema: Any) -> Any:
    """A schema without what no value fails by: descriptions, and what only Kubernetes knows."""
    if isinstance(schema, list):
        return [_bare(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    bare: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            bare[key] = {name: _bare(each) for name, each in value.items()}
        elif key not in ("description", "format", "default", "nullable") and not key.startswith("x-kubernetes-list"):
            bare[key] = _bare(value)
    if schema.get("x-kubernetes-int-or-string"):
        bare = {"type": ["integer", "string"]}
    return bare


def _closed(schema: Any) -> Any:
    """A custom resource's schema that refuses unnamed fields, where Kubernetes would drop them."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    # oneOf and the like say which of the fields beside them go together: they name no others.
    closed = {
        key: {name: _closed(each) for name, each in value.items()}
        if key == "properties"
        else _closed(value)
        if key in ("items", "additionalProperties")
        else value
        for key, value in schema.items()
        if not key.startswith("x-kubernetes")
    }
    if "properties" in closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [found for each in schema for found in _references(each)]
    if not isinstance(schema, dict):
        return []
    here = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
    return here + [found for each in schema.values() for found in _references(each)]


def _write(name: str, source: str, schema: dict[str, Any]) -> None:
    """A definition a line: what a newer package changes is seen."""
    each = ((json.dumps(key), json.dumps(value, separators=(",", ":"))) for key, value in schema["$defs"].items())
    text = ",\n".join(f"  {name}: {definition}" for name, definition in each)
    head = f'{{\n"$comment": {json.dumps(source)},\n"kinds": {json.dumps(schema["kinds"])},\n"$defs": {{\n'
    (SCHEMAS / f"{name}.json").write_text(f"{head}{text}\n}}\n}}\n")


if __name__ == "__main__":
    packed, modules = sys.argv[1:]
    with zipfile.ZipFile(packed) as wheel:
        for each in VERSIONS:
            source = f"From the wheel kubernetes-validate 1.37.0, strict schemas of Kubernetes {each} (Apache 2.0)"
            _write(f"kubernetes-{each}", source, of_kubernetes(wheel, each))
    crds = "From the Go modules prometheus-operator v0.85.0 and cilium v1.18.0 (Apache 2.0)"
    _write("operators", crds, of_operators(Path(modules)))
