"""docker/compose.yaml, as docker-compose reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.real.packages import PATH
from tests.real.programs import run
from tests.real.shipped.conftest import ROOT


@pytest.mark.usefixtures("programs")
def test_docker_compose_takes_it(place: Path) -> None:
    file = ROOT / "docker" / "compose.yaml"
    read = yaml.safe_load(run(["docker-compose", f"--file={file}", "config"], {"PATH": PATH, "HOME": str(place)}))
    assert sorted(read["services"]) == ["node1", "node2", "node3", "registry", "scheduler", "token"]
    assert read["services"]["node3"]["depends_on"] == {"token": {"condition": "service_completed_successfully"}}
    assert read["services"]["node3"]["read_only"]
