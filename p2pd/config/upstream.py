"""Makes the origins of the configured upstreams, and with the upstream `*` those of the upstreams that clients name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from p2pd.config.settings import Settings
from p2pd.config.upstream_setting import UpstreamSetting, url_of
from p2pd.config.values import ConfigError
from peer.oci.reference import UpstreamName, parse_upstream_name
from peer.origin.client import HttpOrigin
from peer.origin.layout import LayoutOrigin
from peer.origin.upstream import Upstream, UpstreamEndpoint
from proxy.origins import ANSWER_WITHIN_S
from proxy.upstreams import UpstreamOrigin

LAYOUT_SCHEME = "oci-layout"


def make_upstreams(
    settings: Settings, before: Mapping[UpstreamName, UpstreamOrigin] | None = None
) -> Mapping[UpstreamName, UpstreamOrigin]:
    """Every configured upstream that has a name, in order. One that is the same as `before` is that one.

    Raises ConfigError.
    """
    known = before or {}
    names = {parse_upstream_name(each.name): each for each in settings.named_upstreams}
    return {name: _make(each, settings, known.get(name)) for name, each in names.items()}


class MakerOfOthers(Struct, frozen=True):
    """Makes the origin of an upstream that only a client has named, like `template` but for name and address."""

    template: Upstream

    def __call__(self, name: UpstreamName) -> HttpOrigin:
        return HttpOrigin(replace(self.template, name=name, endpoints=(url_of(name),)))


def maker_of_others(settings: Settings) -> MakerOfOthers | None:
    """The maker of upstreams that only clients name; None without the upstream `*`.

    They have no credentials of the operator's, and have to be public or in `allow_private`. Raises ConfigError.
    """
    setting = settings.any_host
    if setting is None:
        return None
    name = UpstreamName("registry.invalid")
    try:
        make = MakerOfOthers(_upstream(replace(setting, name=name, urls=(url_of(name),)), settings, public_only=True))
        make(name).close()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return make


def _make(setting: UpstreamSetting, settings: Settings, before: UpstreamOrigin | None) -> UpstreamOrigin:
    origin = before.origin if before else None
    layouts = [url for url in setting.urls if urlsplit(url).scheme == LAYOUT_SCHEME]
    if layouts:
        if len(setting.urls) > 1:
            raise ConfigError(f"upstream {setting.name}: an OCI layout stands alone, without other URLs")
        directory = Path(urlsplit(layouts[0]).path)
        if before is not None and isinstance(origin, LayoutOrigin) and origin.directory == directory:
            return before
        return UpstreamOrigin(LayoutOrigin(directory, upstream=setting.name))
    try:
        upstream = _upstream(setting, settings)
        http = origin if isinstance(origin, HttpOrigin) else None
        if before is not None and http is not None and http.upstream == upstream:
            return before
        return UpstreamOrigin(
            HttpOrigin(upstream, before=http),
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
        traced=setting.trace,
    )
