"""Is the daemon up, and does it serve?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from p2pd.config.settings import Settings
from p2pd.config.values import Address, show_duration
from p2pd.doctor.disk_space import is_full
from p2pd.doctor.environment import Environment, UnreachableError
from p2pd.doctor.result import CheckResult, Level

LAST_SUCCESS: Final = "p2pd_mirror_last_success_timestamp_seconds"
MIN_OPEN_FILES: Final = 4096
"""Each client, peer and origin connection takes a file descriptor, and so does each blob in use. One image of many
layers and some hundred peers use up 1024, the usual limit of a shell."""

_START = "start it (p2pd run, or systemctl start p2pd), or name its address with --"


def check_mirror(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """The API's own ping, as every client sends it first."""
    try:
        reply = around.get(f"http://{settings.mirror}/v2/")
    except UnreachableError as error:
        yield CheckResult(
            Level.FAIL, "mirror", f"the mirror at {settings.mirror} does not answer: {error}", f"{_START}mirror"
        )
        return
    if reply.status in (200, 401):
        yield CheckResult(Level.OK, "mirror", f"the mirror answers at {settings.mirror}")
    else:
        title = f"what answers at {settings.mirror} is not a working registry mirror (status {reply.status})"
        yield CheckResult(Level.FAIL, "mirror", title, "see what listens there (ss -ltnp), and p2pd's log")


def check_ready(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """Whether the daemon's own `/readyz` says that it can serve."""
    try:
        reply = around.get(f"http://{settings.admin}/readyz")
    except UnreachableError as error:
        yield CheckResult(
            Level.FAIL, "admin", f"the admin port at {settings.admin} does not answer: {error}", f"{_START}admin"
        )
        return
    degraded = "" if is_full(settings, around) else _reasons(reply.body, "degraded")  # check_disk reports that
    if reply.status == 200 and degraded:
        yield CheckResult(
            Level.WARN, "admin", f"the daemon serves, but {degraded}", "mend that; p2pd tries again itself"
        )
    elif reply.status == 200:
        yield CheckResult(Level.OK, "admin", "the daemon is ready")
    else:
        reasons = _reasons(reply.body, "reasons") or f"status {reply.status}"
        yield CheckResult(Level.FAIL, "admin", f"the daemon is not ready: {reasons}", "see p2pd's log")


def check_last_success(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """The time of the last client: the only sign that the whole set-up works."""
    last_s = _samples(settings.admin, around).get(LAST_SUCCESS)
    if last_s:
        age = show_duration(max(0.0, around.now_s() - last_s))
        yield CheckResult(Level.OK, "last success", f"a client was served {age} ago")
    elif last_s is not None:
        title = "no client was served since the daemon started"
        yield CheckResult(
            Level.WARN, "last success", title, "pull an image, then look at what is said of the runtimes below"
        )


def check_open_files(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """The daemon's own limit, from its metrics; the limit of this shell says nothing about it."""
    samples = _samples(settings.admin, around)
    limit, used = samples.get("process_max_fds"), samples.get("process_open_fds", 0.0)
    if limit is None:
        return
    if limit < MIN_OPEN_FILES or used > 0.8 * limit:
        title = f"the daemon may open {limit:.0f} files and has {used:.0f} open"
        yield CheckResult(
            Level.WARN, "open files", title, "raise its limit (LimitNOFILE= in its unit, ulimits in compose)"
        )
    else:
        yield CheckResult(Level.OK, "open files", f"the daemon may open {limit:.0f} files")


def _samples(admin: Address, around: Environment) -> dict[str, float]:
    """The greatest sample of each of the daemon's metrics, by name; none if the daemon does not answer."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, float] = {}
    try:
        text = around.get(f"http://{admin}/metrics").body.decode(errors="replace")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] = max(found.get(sample.name, sample.value), sample.value)
    except (UnreachableError, ValueError):  # check_ready reports it
        return {}
    return found


def _reasons(body: bytes, which: str) -> str:
    try:
        return "; ".join(map(str, json.loads(body)[which]))
    except (ValueError, KeyError, TypeError):
        return ""
