"""The log: its two forms, its levels, and what never appears in it."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.daemon import logs
from tests.support.registry_server import PATIENCE_S

log = logs.get("p2pd.test")  # as modules have it: made before anything is set up


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Puts back what `setup` changes for the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_time_level_logger_event_and_keys() -> None:
    logs.setup("info", "auto", stream := io.StringIO())
    log.info("piece landed", digest="sha256:ab", piece=3)
    (event,) = events(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", event.pop("timestamp"))
    assert event == {"level": "info", "logger": "p2pd.test", "event": "piece landed", "digest": "sha256:ab", "piece": 3}


def test_a_line_for_people() -> None:
    logs.setup("info", "human", stream := io.StringIO())
    log.warning("origin slow", origin="docker.io", why="too long")
    line = stream.getvalue()
    assert "warning" in line
    assert "origin slow" in line
    assert "origin=docker.io why='too long'" in line
    assert "\x1b" not in line


def test_a_terminal_gets_lines_for_people_in_colour() -> None:
    logs.setup("info", "auto", stream := Terminal())
    log.info("ready")
    assert "\x1b[" in stream.getvalue()


def test_the_form_can_be_chosen_for_a_terminal() -> None:
    logs.setup("info", "json", stream := Terminal())
    log.info("ready")
    assert events(stream)[0]["event"] == "ready"


def test_only_the_level_and_above() -> None:
    logs.setup("warning", "json", stream := io.StringIO())
    log.info("no")
    logging.getLogger("asyncio").info("no")
    log.error("yes")
    assert [event["event"] for event in events(stream)] == ["yes"]


def test_libraries_log_the_same_way() -> None:
    logs.setup("info", "json", stream := io.StringIO())
    logging.getLogger("aiohttp.access").info("GET %s", "/v2/?token=abc", extra={"authorization": "Bearer abc"})
    (event,) = events(stream)
    assert event["logger"] == "aiohttp.access"
    assert event["event"] == "GET /v2/?[redacted]"
    assert event["authorization"] == "[redacted]"


def fail() -> None:
    raise OSError("https://cdn.example/blob?X-Amz-Signature=hunter2 \x1b[2J")


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_traceback_is_kept_without_its_secrets(form: Any) -> None:
    logs.setup("info", form, stream := io.StringIO())
    try:
        fail()
    except OSError:
        log.exception("origin failed")
        logging.getLogger("asyncio").exception("task failed")
    text = stream.getvalue()
    assert text.count("Traceback (most recent call last)") == 2
    assert "OSError: https://cdn.example/blob?[redacted]" in text
    assert "hunter2" not in text
    assert "\x1b" not in text


SECRET = "hunter2"


@pytest.mark.parametrize(
    "keys",
    [
        {"Authorization": SECRET},
        {"registry_token": SECRET},
        {"password": SECRET},
        {"headers": {"cookie": SECRET}},
        {"headers": [{"Proxy-Authorization": [SECRET]}]},
        {"url": f"https://cdn.example/blob?signature={SECRET}#x"},
        {"url": f"https://me:{SECRET}@registry.example/v2/"},
        {"why": OSError(f"GET https://cdn.example/a?b=c&d={SECRET} failed")},
        {"why": f"sent Authorization: Bearer {SECRET}, got 401"},
        {"why": (f"Basic {SECRET}==",)},
    ],
)
@pytest.mark.parametrize("form", ["human", "json"])
def test_secrets_do_not_reach_the_log(form: Any, keys: dict[str, Any]) -> None:
    logs.setup("info", form, stream := io.StringIO())
    log.info("asked", **keys)
    assert SECRET not in stream.getvalue()
    assert "[redacted]" in stream.getvalue()


@given(text=st.text(), key=st.sampled_from(["why", "event"]))
def test_no_text_makes_a_second_line_or_steers_a_terminal(text: str, key: str) -> None:
    event = logs.redact(None, "info", {"event": "x", key: text})
    assert len(str(event[key]).splitlines()) <= 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", event[key])


def test_numbers_are_not_secrets() -> None:
    assert logs.redact(None, "info", {"tokens": 3, "authorized": True}) == {"tokens": 3, "authorized": True}


def test_rich_is_not_imported_for_the_log() -> None:
    """45 ms and 3 MiB of the daemon's start."""
    code = "import sys; from p2pd.daemon import logs; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE_S).returncode == 0
