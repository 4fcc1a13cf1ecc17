"""`p2pd doctor`: check this node's set-up and say what to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from p2pd.cli.options import with_settings
from p2pd.doctor.environment import real
from p2pd.doctor.result import CheckResult, Level
from p2pd.doctor.run import run_checks

if TYPE_CHECKING:
    from p2pd.config.settings import Settings

_STYLE: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="/",
    metavar="DIR",
    help="Look at the files below DIR, such as a host's that are mounted in a container.",
)
@with_settings("data", "mirror", "admin", "upstream", "max_bytes", "min_free_bytes")
def doctor(settings: Settings, *, as_json: bool, root: Path) -> None:
    """Check this node's set-up and say what to change. Changes nothing; exits with 1 if something fails.

    Run it as root: other users may not see every file and socket that it looks at.
    """
    findings = run_checks(settings, real(root))
    failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        rows = [
            {"level": each.level.value, "check": each.check, "title": each.title, "advice": each.advice}
            for each in findings
        ]
        click.echo(json.dumps({"ok": not failed, "findings": rows}, indent=2))
    else:
        _show(findings)
    if failed:
        raise click.exceptions.Exit(1)


def _show(findings: tuple[CheckResult, ...]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(Text.assemble((f"{finding.level.value:<4}", _STYLE[finding.level]), "  ", finding.title))
        if finding.advice:
            console.print(Text(f"      {finding.advice}", style="dim"))
