"""Prometheus' own tool reads what p2pd gives it: the metrics, the alerts, and the dashboard's expressions."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.p2pd.dashboard import expressions, queries
from tests.real.image import Image
from tests.real.node import Node
from tests.real.packages import PATH
from tests.real.web import get
from tests.support.registry_server import PATIENCE_S

HERE: Final = Path(__file__).parent
DOCKER: Final = HERE.parents[1] / "docker"


def promtool(*args: str | Path, stdin: bytes = b"") -> str:
    """What it says. Fails the test if it complains."""
    program = shutil.which("promtool", path=PATH)
    assert program is not None
    done = subprocess.run([program, *args], input=stdin, capture_output=True, check=False, timeout=PATIENCE_S)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_the_metrics(node: Node, image: Image) -> None:
    for path in ("library/real/manifests/none", "nowhere.example/app/manifests/1.0"):
        get(f"{node.url}/v2/{path}")
    scraped = get(f"http://{node.admin}/metrics").body
    assert b"p2pd_proxy_refusals_total{" in scraped
    assert promtool("check", "metrics", stdin=scraped) == ""


@pytest.mark.usefixtures("programs")
def test_the_alerts() -> None:
    assert "SUCCESS" in promtool("check", "rules", DOCKER / "prometheus-rules.yaml")
    assert "SUCCESS" in promtool("test", "rules", HERE / "prometheus_rules.yaml")


@pytest.mark.usefixtures("programs")
def test_the_dashboard_and_the_page_on_slow_pulls(tmp_path: Path) -> None:
    asked = enumerate([*expressions(DOCKER / "grafana-dashboard.json"), *queries(DOCKER.parent / "docs/slow-pulls.md")])
    rules = [{"record": f"expression_{at}", "expr": each} for at, each in asked]
    file = tmp_path / "rules.yaml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)
