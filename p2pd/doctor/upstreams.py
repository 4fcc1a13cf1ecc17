"""Can this machine reach each upstream, with the daemon's CA?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from p2pd.config.settings import Settings
from p2pd.doctor.environment import Environment, UnreachableError
from p2pd.doctor.result import CheckResult, Level
from peer.origin.upstream import UpstreamEndpoint

_LAYOUT = "oci-layout://"


def check_upstreams(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """The API's ping at each URL. 401 is as good as 200: the registry is there, and wants a token."""
    for upstream in settings.named_upstreams:
        for url in upstream.urls:
            check = f"upstream {upstream.name}"
            yield _layout(check, url, around) if url.startswith(_LAYOUT) else _registry(check, url, upstream.ca, around)
    if settings.any_host is not None:
        inside = f", and so are {', '.join(settings.allow_private)}" if settings.allow_private else ""
        title = f"every other registry with a public address is served{inside}"
        yield CheckResult(Level.OK, "upstream *", title)


def _registry(check: str, url: str, ca: Path | None, around: Environment) -> CheckResult:
    try:
        endpoint = UpstreamEndpoint.parse(url)
        reply = around.get_upstream(f"{endpoint.target}{endpoint.path('')}", ca)
    except UnreachableError as error:
        advice = "what is cached is still served; nothing new can be pulled from there"
        return CheckResult(Level.FAIL, check, f"{url} cannot be reached: {error}", advice)
    if reply.status in (200, 401):
        return CheckResult(Level.OK, check, f"{url} answers")
    if reply.status in (429, 503):
        return CheckResult(Level.WARN, check, f"{url} answers with status {reply.status}: it is too busy, or limits us")
    title = f"{url} answers with status {reply.status} to /v2/, as no registry does"
    return CheckResult(Level.FAIL, check, title, "correct the upstream's URL: it is what stands before /v2/")


def _layout(check: str, url: str, around: Environment) -> CheckResult:
    directory = url.removeprefix(_LAYOUT)
    if "oci-layout" in (around.files.names(directory) or ()):
        return CheckResult(Level.OK, check, f"{directory} is an OCI layout")
    return CheckResult(
        Level.FAIL, check, f"{directory} is no OCI layout", "it has to hold the files oci-layout and index.json"
    )
