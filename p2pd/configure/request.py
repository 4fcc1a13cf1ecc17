"""Makes the request to configure a runtime from p2pd's settings and the flags of a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from p2pd.config.settings import Settings
from p2pd.config.values import ConfigError, parse_address, parse_upstream
from p2pd.configure.docker import HUB
from p2pd.configure.runtime import Request

_HUB_URL: Final = "https://registry-1.docker.io"


def request_of(
    settings: Settings, *, mirror: str | None = None, upstreams: Sequence[str] = (), wildcard: bool = False
) -> Request:
    """A request with the mirror and all upstreams of `settings`. The arguments, if given, replace these.

    `mirror` is HOST:PORT as the runtime reaches it. `upstreams` are names (`quay.io`), or NAME=URL as for `p2pd run`.
    Raises ConfigError.
    """
    address = parse_address(mirror) if mirror is not None else settings.mirror
    if address.port == 0:
        raise ConfigError("the mirror's port is not known before it runs: give --mirror HOST:PORT")
    known = {upstream.name: upstream for upstream in settings.upstream}
    chosen = tuple(
        known.get(text.lower()) or parse_upstream(text if "=" in text else f"{text}={_url_of(text)}")
        for text in upstreams
    )
    given_whole = any("=" in text for text in upstreams)
    return Request(
        mirror=address,
        upstreams=chosen or settings.upstream,
        default_upstream=(chosen if given_whole else settings.upstream)[0].name,
        wildcard=wildcard,
    )


def _url_of(upstream: str) -> str:
    return _HUB_URL if upstream.lower() == HUB else f"https://{upstream}"
