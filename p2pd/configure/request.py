"""Makes the request to configure a runtime from p2pd's settings and the flags of a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from p2pd.config.own_addresses import own_addresses
from p2pd.config.settings import Settings
from p2pd.config.upstream_setting import ANY_HOST, UpstreamSetting, parse_upstream
from p2pd.config.values import ConfigError, parse_address
from p2pd.configure.dockerd import has_daemon_json_proxies
from p2pd.configure.runtime import ProxyRequest, Request, host_for_clients


def request_of(
    settings: Settings, *, mirror: str | None = None, upstreams: Sequence[str] = (), wildcard: bool = False
) -> Request:
    """A request with the mirror and all upstreams of `settings`. The arguments, if given, replace these.

    `mirror` is HOST:PORT as the runtime reaches it. `upstreams` are names (`quay.io`), or NAME=URL as for `p2pd run`.
    `wildcard` asks for every registry, as the upstream `*` does. Raises ConfigError.
    """
    address = parse_address(mirror) if mirror is not None else settings.mirror
    if address.port == 0:
        raise ConfigError("the mirror's port is not known before it runs: give --mirror HOST:PORT")
    known = {upstream.name: upstream for upstream in settings.named_upstreams}
    given = [_parse(text) for text in upstreams]
    any_host = settings.any_host is not None or any(upstream.is_any_host for upstream in given)
    chosen = tuple(
        known.get(upstream.name, upstream) if "=" not in text else upstream
        for text, upstream in zip(upstreams, given, strict=True)
        if not upstream.is_any_host
    )
    names = [upstream.name for upstream in chosen or settings.named_upstreams]
    several = list(dict.fromkeys([*(each.name for each in settings.named_upstreams), *names]))
    given_whole = any("=" in text for text in upstreams)
    return Request(
        mirror=address,
        upstreams=chosen or settings.named_upstreams,
        default_upstream=(chosen if given_whole else settings.named_upstreams)[0].name,
        wildcard=wildcard or (any_host and (ANY_HOST in upstreams or not upstreams)),
        any_host=any_host,
        own={} if mirror is not None else own_addresses(address, several),
    )


def proxy_request(settings: Settings, told: Mapping[str, object], dockerd_version: str) -> ProxyRequest:
    """The HTTPS proxy of a node: as `settings` have it, else as the daemon that runs has `told` (`/status`).

    Whatever listens at the admin address may have told that. A wrong proxy sees no more than the names of registries.
    A wrong directory would have the certificates of somebody whom dockerd then takes for them: that is the settings'.

    `dockerd_version` is what `dockerd --version` says. Raises ConfigError if there is no such proxy.
    """
    configured = settings.https_proxy
    at = configured if configured is not None and configured.port else told.get("https_proxy") or configured
    if at is None:
        raise ConfigError(
            'p2pd has no HTTPS proxy: set https_proxy = "127.0.0.1:65007" in p2pd.toml, restart p2pd, and try again'
        )
    address = parse_address(str(at))
    if address.port == 0:
        raise ConfigError("the HTTPS proxy's port is not known before p2pd runs: start it, or set a port")
    return ProxyRequest(
        f"http://{host_for_clients(address)}",
        str(settings.data),
        in_daemon_json=has_daemon_json_proxies(dockerd_version),
    )


def _parse(text: str) -> UpstreamSetting:
    """An upstream that is named here may have a name without a dot: the command line means nothing else by it."""
    is_name = not set("=:;*/.") & set(text)
    return parse_upstream(f"{text}=https://{text}" if is_name else text)
