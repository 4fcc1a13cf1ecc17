"""Man pages: one for each command, with all of its flags."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from p2pd.cli.app import COMMANDS, app
from p2pd.cli.manual import pages
from p2pd.config.settings import KEYS


@pytest.fixture(scope="module")
def manual() -> dict[str, str]:
    return dict(pages())


def test_every_command_has_a_page_and_p2pd_names_it(manual: dict[str, str]) -> None:
    assert {f"p2pd-{name}.1" for name in COMMANDS} <= manual.keys()
    assert {"p2pd-cache-ls.1", "p2pd-token-create.1", "p2pd-host-revoke.1"} <= manual.keys()
    named = {name.replace("\\", "") for name in re.findall(r"^\\fB(p2pd\\-\S+)\(1\)", manual["p2pd.1"], re.MULTILINE)}
    assert named == {f"p2pd-{name}" for name in COMMANDS}


@pytest.mark.parametrize("name", [*COMMANDS, "cache ls", "token create"])
def test_a_page_has_every_flag_of_help(manual: dict[str, str], name: str) -> None:
    helped = CliRunner().invoke(app, [*name.split(), "--help"]).output
    page = manual[f"p2pd-{name.replace(' ', '-')}.1"].replace("\\-", "-").replace("\\&", "")
    flags = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", helped, re.MULTILINE))
    assert flags
    assert [flag for flag in flags if flag not in page] == []
    assert f".SH NAME\np2pd-{name.replace(' ', '-')} - " in page


def test_the_page_of_run_explains_every_key(manual: dict[str, str]) -> None:
    page = manual["p2pd-run.1"].replace("\\-", "-").replace("\\&", "")
    assert [key for key in KEYS if f"P2PD_{key.upper()};" not in page] == []


def test_a_text_that_groff_would_take_for_a_request_is_text() -> None:
    @click.command("odd")
    @click.option("--odd", help=".so /etc/passwd and \\fB, 'tis -1")
    def odd() -> None:
        """.TH first line."""

    from p2pd.cli.manual import _page  # the private part: p2pd has no such command

    text = "\n".join(_page(click.Context(odd, info_name="odd")))
    assert "\\&.so /etc/passwd and \\efB, 'tis \\-1" in text
    assert not re.search(r"^\.so", text, re.MULTILINE)


def test_a_page_can_be_made_twice_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert '"1970-01-01"' in dict(pages())["p2pd.1"]
