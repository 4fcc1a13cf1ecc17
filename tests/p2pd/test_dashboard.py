"""The dashboard and the alerts ask for metrics and labels that there are; the dashboard is one that Grafana takes."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Final

import pytest

from tests.p2pd.dashboard import Panel, alerts, expressions, panels, queries

ROOT: Final = Path(__file__).parents[2]
DASHBOARD: Final = ROOT / "docker" / "grafana-dashboard.json"
RULES: Final = ROOT / "docker" / "prometheus-rules.yaml"
SLOW: Final = ROOT / "docs" / "slow-pulls.md"
ROW: Final = re.compile(r"\| `(p2pd_\w+)` \| (\w+) \| ([^|]*) \|")
SELECTED: Final = re.compile(r"(p2pd_\w+)(?:\{([^}]*)\})?")
OF_PROMETHEUS: Final = {"instance", "job"}


def known() -> dict[str, set[str]]:
    """The labels of each series, by name, as docs/metrics.md has them: a test compares that with the code."""
    found: dict[str, set[str]] = {}
    for name, kind, labels in ROW.findall((ROOT / "docs" / "metrics.md").read_text()):
        own = set(re.findall(r"`(\w+)`", labels)) | OF_PROMETHEUS
        if kind == "histogram":
            found |= {f"{name}_bucket": own | {"le"}, f"{name}_sum": own, f"{name}_count": own}
        else:
            found[name] = own
    return found


ASKED: Final = [*expressions(DASHBOARD), *(each["expr"] for each in alerts(RULES)), *queries(SLOW)]


@pytest.mark.parametrize("expression", ASKED)
def test_what_is_asked_for_is_there(expression: str) -> None:
    series, grouped = known(), set()
    assert not re.search(r"\$", expression), "a variable that no Prometheus knows"
    selected = SELECTED.findall(expression)
    for name, matchers in selected:
        assert name in series
        assert set(re.findall(r"(\w+)\s*=", matchers)) <= series[name]
        grouped |= series[name]
    for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        assert set(filter(None, re.split(r",\s*", labels))) <= grouped
    assert selected


def test_every_alert_says_what_to_do() -> None:
    found = alerts(RULES)
    assert len({each["alert"] for each in found}) == len(found)
    for alert in found:
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert alert["annotations"]["runbook_url"].startswith("docs/troubleshooting.md")
        assert len(alert["annotations"]["summary"]) > 80


def test_the_dashboard_is_whole() -> None:
    """Ids are unique, nothing lies upon another, each panel has a title, a source and a legend."""
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] == 38  # Grafana 10.0; later ones migrate it
    assert "id" not in dashboard  # else it is taken for another one of the installation
    found = panels(DASHBOARD)
    assert len({panel["id"] for panel in found}) == len(found)
    assert not [(one["title"], other["title"]) for one, other in combinations(found, 2) if overlap(one, other)]
    for panel in found:
        assert panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


def test_the_legends_name_labels_that_are_left() -> None:
    for panel in panels(DASHBOARD):
        for target in panel.get("targets", []):
            by = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            left = set(re.split(r",\s*", by[0])) if by else set() if "sum(" in target["expr"] else {"instance"}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left


def overlap(one: Panel, other: Panel) -> bool:
    mine: dict[str, int] = one["gridPos"]
    theirs: dict[str, int] = other["gridPos"]
    across = mine["x"] < theirs["x"] + theirs["w"] and theirs["x"] < mine["x"] + mine["w"]
    return across and mine["y"] < theirs["y"] + theirs["h"] and theirs["y"] < mine["y"] + mine["h"]
