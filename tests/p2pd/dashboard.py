"""What Prometheus is asked by the dashboard and by the alerts in `docker/`, and by the page on slow pulls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Panel = dict[str, Any]

_VARIABLES = {"$__rate_interval": "5m", "$instance": ".*"}


def panels(dashboard: Path) -> list[Panel]:
    """The panels of a dashboard, rows among them."""
    found: list[Panel] = json.loads(dashboard.read_text(encoding="utf-8"))["panels"]
    return found


def expressions(dashboard: Path) -> Iterator[str]:
    """The expressions of a dashboard, with a value for each variable."""
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            expression: str = target["expr"]
            for name, value in _VARIABLES.items():
                expression = expression.replace(name, value)
            yield expression


def queries(page: Path) -> Iterator[str]:
    """The queries of a document: its indented lines."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            yield line.strip()


def alerts(rules: Path) -> list[dict[str, Any]]:
    """The alerts of a file of rules."""
    groups = yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]
