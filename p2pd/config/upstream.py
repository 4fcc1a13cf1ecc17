"""Makes the origins of the configured upstreams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from p2pd.config.settings import Settings
from p2pd.config.values import ConfigError, UpstreamSetting
from peer.oci.reference import UpstreamName, parse_upstream_name
from peer.origin.client import HttpOrigin
from peer.origin.layout import LayoutOrigin
from peer.origin.upstream import Upstream, UpstreamEndpoint
from proxy.origins import ANSWER_WITHIN_S, UpstreamOrigin

LAYOUT_SCHEME = "oci-layout"


def make_upstreams(settings: Settings) -> Mapping[UpstreamName, UpstreamOrigin]:
    """Every configured upstream that has a name, in order. Raises ConfigError."""
    return {parse_upstream_name(each.name): _make(each, settings) for each in settings.named_upstreams}


def _make(setting: UpstreamSetting, settings: Settings) -> UpstreamOrigin:
    layouts = [url for url in setting.urls if urlsplit(url).scheme == LAYOUT_SCHEME]
    if layouts:
        if len(setting.urls) > 1:
            raise ConfigError(f"upstream {setting.name}: an OCI layout stands alone, without other URLs")
        return UpstreamOrigin(LayoutOrigin(Path(urlsplit(layouts[0]).path), upstream=setting.name))
    try:
        upstream = Upstream(
            name=setting.name,
            endpoints=setting.urls,
            ca_file=setting.ca,
            username=setting.username,
            password=_password(setting),
            token_hosts=setting.token_hosts,
            max_connections=setting.connections or settings.connections_per_origin,
            rate_bytes_per_s=settings.origin_rate if setting.rate is None else setting.rate,
            metadata_s=ANSWER_WITHIN_S - 2.0,
        )
        return UpstreamOrigin(
            HttpOrigin(upstream),
            has_credentials=upstream.username is not None,
            renames=any(UpstreamEndpoint.parse(url).project for url in setting.urls),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _password(setting: UpstreamSetting) -> str | None:
    if setting.password_file is None:
        return None
    try:
        return setting.password_file.read_text().rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"upstream {setting.name}: the password file {setting.password_file} cannot be read: {error}"
        ) from None
