"""Can this machine reach each upstream, with the daemon's CA, password and clock?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from p2pd.config.settings import Settings
from p2pd.config.values import show_duration
from p2pd.configure.runtime import ConfigureError
from p2pd.doctor.environment import Environment, UnreachableError
from p2pd.doctor.result import CheckResult, Level
from peer.origin.upstream import UpstreamEndpoint

_LAYOUT = "oci-layout://"
MOST_SKEW_S: Final = 60.0
"""Tokens of registries are good for minutes, and certificates of p2pd's hosts bear a minute of skew."""


def check_upstreams(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """The API's ping at each URL. 401 is as good as 200: the registry is there, and wants a token."""
    for upstream in settings.named_upstreams:
        for url in upstream.urls:
            check = f"upstream {upstream.name}"
            if url.startswith(_LAYOUT):
                yield _layout(check, url, around)
            else:
                yield from _registry(check, url, upstream.ca, around)
    if settings.any_host is not None:
        inside = f", and so are {', '.join(settings.allow_private)}" if settings.allow_private else ""
        title = f"every other registry with a public address is served{inside}"
        yield CheckResult(Level.OK, "upstream *", title)


def check_password_files(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """Whether the daemon can read each password: without one `p2pd run` does not start."""
    for upstream in settings.named_upstreams:
        path = upstream.password_file
        if path is None:
            continue
        check = f"upstream {upstream.name}"
        try:
            content = around.files.read(str(path))
        except ConfigureError as error:
            yield CheckResult(Level.WARN, check, f"its password_file could not be examined: {error}")
            continue
        if content is None:
            title = f"its password_file {path} is missing: p2pd run does not start without it"
            yield CheckResult(Level.FAIL, check, title, f"write the password of {upstream.name} there, or correct it")
        elif not content.strip():
            title = f"its password_file {path} is empty"
            yield CheckResult(Level.FAIL, check, title, f"write the password of {upstream.name} there")
        else:
            yield from _readable(check, path, settings.data, around)


def _readable(check: str, path: Path, data: Path, around: Environment) -> Iterator[CheckResult]:
    """Whether the user of the daemon, which owns the cache, may read the file. Groups are not known here."""
    file, cache = around.owner(path), around.owner(data)
    if file is None or cache is None or cache.uid in (0, file.uid) or file.mode & 0o044:
        yield CheckResult(Level.OK, check, f"its password_file {path} can be read")
        return
    title = f"its password_file {path} is for user {file.uid} alone, and p2pd runs as user {cache.uid}"
    advice = f"chown {cache.uid} {path}; or in p2pd's unit LoadCredential=, with the path that it gives"
    yield CheckResult(Level.FAIL, check, title, advice)


def _registry(check: str, url: str, ca: Path | None, around: Environment) -> Iterator[CheckResult]:
    try:
        endpoint = UpstreamEndpoint.parse(url)
        reply = around.get_upstream(f"{endpoint.target}{endpoint.path('')}", ca)
    except UnreachableError as error:
        advice = "what is cached is still served; nothing new can be pulled from there"
        yield CheckResult(Level.FAIL, check, f"{url} cannot be reached: {error}", advice)
        return
    skew_s = 0.0 if reply.date_s is None else around.now_s() - reply.date_s
    if abs(skew_s) > MOST_SKEW_S:
        title = f"this machine's clock is {show_duration(abs(skew_s))} {'ahead of' if skew_s > 0 else 'behind'} {url}'s"
        yield CheckResult(Level.WARN, "clock", title, "set it (timedatectl): certificates and tokens are judged by it")
    if reply.status in (200, 401):
        yield CheckResult(Level.OK, check, f"{url} answers")
    elif reply.status in (429, 503):
        title = f"{url} answers with status {reply.status}: it is too busy, or limits us"
        yield CheckResult(Level.WARN, check, title)
    else:
        title = f"{url} answers with status {reply.status} to /v2/, as no registry does"
        yield CheckResult(Level.FAIL, check, title, "correct the upstream's URL: it is what stands before /v2/")


def _layout(check: str, url: str, around: Environment) -> CheckResult:
    directory = url.removeprefix(_LAYOUT)
    if "oci-layout" in (around.files.names(directory) or ()):
        return CheckResult(Level.OK, check, f"{directory} is an OCI layout")
    return CheckResult(
        Level.FAIL, check, f"{directory} is no OCI layout", "it has to hold the files oci-layout and index.json"
    )
