"""Makes the origins of the configured upstreams, and with the upstream `*` those of the upstreams that clients name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from p2pd.config.settings import Settings
from p2pd.config.values import ConfigError, UpstreamSetting, url_of
from peer.oci.reference import UpstreamName, parse_upstream_name
from peer.origin.client import HttpOrigin
from peer.origin.layout import LayoutOrigin
from peer.origin.upstream import Upstream, UpstreamEndpoint
from proxy.origins import ANSWER_WITHIN_S
from proxy.upstreams import UpstreamOrigin

LAYOUT_SCHEME = "oci-layout"


def make_upstreams(settings: Settings) -> Mapping[UpstreamName, UpstreamOrigin]:
    """Every configured upstream that has a name, in order. Raises ConfigError."""
    return {parse_upstream_name(each.name): _make(each, settings) for each in settings.named_upstreams}


def maker_of_others(settings: Settings) -> Callable[[UpstreamName], HttpOrigin] | None:
    """What makes the origin of an upstream that only a client has named; None without the upstream `*`.

    It has no credentials of the operator's, and it has to be public or in `allow_private`. Raises ConfigError.
    """
    setting = settings.any_host
    if setting is None:
        return None

    def make(name: UpstreamName) -> HttpOrigin:
        return HttpOrigin(_upstream(replace(setting, name=name, urls=(url_of(name),)), settings, public_only=True))

    try:
        make(UpstreamName("registry.invalid")).close()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return make


def _make(setting: UpstreamSetting, settings: Settings) -> UpstreamOrigin:
    layouts = [url for url in setting.urls if urlsplit(url).scheme == LAYOUT_SCHEME]
    if layouts:
        if len(setting.urls) > 1:
            raise ConfigError(f"upstream {setting.name}: an OCI layout stands alone, without other URLs")
        return UpstreamOrigin(LayoutOrigin(Path(urlsplit(layouts[0]).path), upstream=setting.name))
    try:
        upstream = _upstream(setting, settings)
        return UpstreamOrigin(
            HttpOrigin(upstream),
            has_credentials=upstream.username is not None,
            renames=any(UpstreamEndpoint.parse(url).project for url in setting.urls),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _upstream(setting: UpstreamSetting, settings: Settings, *, public_only: bool = False) -> Upstream:
    return Upstream(
        name=setting.name,
        endpoints=setting.urls,
        ca_file=setting.ca,
        username=setting.username,
        password_file=setting.password_file,
        token_hosts=setting.token_hosts,
        max_connections=setting.connections or settings.connections_per_origin,
        rate_bytes_per_s=settings.origin_rate if setting.rate is None else setting.rate,
        metadata_s=ANSWER_WITHIN_S - 2.0,
        allow_private=settings.allow_private,
        public_only=public_only,
    )
