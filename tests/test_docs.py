"""The pages of docs/ and those at the top name what there is: files, headings, commands with their flags, metrics."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from p2pd.cli.app import app
from tests.generated_docs import DOCS, DOCUMENTS

ROOT: Final = Path(__file__).parents[1]
TOP: Final = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES: Final = [*TOP, *sorted(DOCS.glob("*.md"))]
LINK: Final = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
"""The file and the heading of a link that leads to no other site."""
FENCED: Final = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN: Final = re.compile(r"`([^`\n]+)`|^    (\S.*)$", re.MULTILINE)
"""What stands between backticks, and a line of code."""
CALLED: Final = re.compile(r"\s*(?:kubectl .* -- )?p2pd (?=[a-z-])(.*)")
MODULE: Final = re.compile(r"`((?:p2pd|proxy|peer|scheduler|benchmarks|tests)/[a-z0-9_/]+\.py)")
"""A file of the source. One of tests may be named without the folder `tests`."""
METRIC: Final = re.compile(r"\bp2pd_[a-z_]+\b")

TROUBLESHOOTING: Final = (DOCS / "troubleshooting.md").read_text()
SAID_IN: Final = {
    "doctor": sorted((ROOT / "p2pd" / "doctor").glob("*.py")),
    "status": [ROOT / "p2pd" / "cli" / "status.py"],
}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def headings(page: Path) -> set[str]:
    """The names of its headings in links, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pages
def test_each_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for file, heading in LINK.findall(page.read_text()):
        target = page.parent / file if file else page
        if not target.exists() or (heading and heading not in headings(target)):
            broken.append(f"{file}#{heading}")
    assert broken == []


@pages
def test_each_file_of_the_source_is_there(page: Path) -> None:
    named = MODULE.findall(page.read_text())
    assert [file for file in named if not ((ROOT / file).exists() or (ROOT / "tests" / file).exists())] == []


def commands(text: str) -> Iterator[list[str]]:
    """The words after `p2pd` of each command that is shown."""
    indented = FENCED.sub(lambda block: textwrap.indent(block[1], "    "), text).replace("\\\n", " ")
    for spans in SHOWN.findall(indented):
        shown = "".join(spans).partition("  #")[0]
        for called in map(CALLED.match, re.split(r"&&|;|\$\(", shown)):
            if called is not None:
                yield re.sub("[\"']", "", called[1]).rstrip(")& ").split()


def parsed(words: list[str]) -> tuple[click.Command, list[str]] | None:
    """The command and its arguments; None if there is no such command. `ls|rm` are both, with the arguments of `ls`."""
    command: click.Command = app
    while isinstance(command, click.Group) and words:
        found = [command.get_command(click.Context(command), name) for name in words[0].split("|")]
        if None in found or found[0] is None:
            return None
        command, words = found[0], words[1:]
    return command, words


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "protocol.md"], ids=lambda page: page.stem)
def test_each_command_and_its_flags_are_those_of_p2pd(page: Path) -> None:
    """Not of the protocol, where "p2pd piece request" is the name of a key."""
    unknown = []
    for words in commands(page.read_text()):
        found = parsed(words)
        known = {name for each in found[0].params for name in (*each.opts, *each.secondary_opts)} if found else set()
        flags = {word.strip("[]").partition("=")[0] for word in (found[1] if found else ()) if "--" in word}
        if found is None or not flags <= {*known, "--help"}:
            unknown.append(" ".join(words))
    assert unknown == []


@pages
def test_each_metric_is_one_of_ours(page: Path) -> None:
    ours = set(METRIC.findall(DOCUMENTS["metrics.md"]()))
    named = {name.removesuffix("_bucket") for name in METRIC.findall(page.read_text())}
    assert named - ours == set()


def test_the_index_has_every_page() -> None:
    listed = {file for file, _ in LINK.findall((DOCS / "README.md").read_text())}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= listed


@pytest.mark.parametrize(("source", "quoted"), re.findall(r"(doctor|status): `([^`]+)`", TROUBLESHOOTING))
def test_what_the_command_is_quoted_with_is_what_it_says(source: str, quoted: str) -> None:
    assert any(quoted in file.read_text() for file in SAID_IN[source])
