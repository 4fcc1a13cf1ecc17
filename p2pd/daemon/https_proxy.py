"""Makes the HTTPS proxy of a node, if it has one. A node without does not import this: `cryptography` has 10 MiB."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from p2pd.config.settings import Settings
from p2pd.config.values import ConfigError
from p2pd.daemon import logs
from peer.tasks import BackgroundTasks
from proxy.https_proxy import HttpsProxy
from proxy.local_authority import LocalAuthority
from proxy.mirror import Mirror
from proxy.origins import Origins
from proxy.pass_on import PassOn
from proxy.proxied import Proxied
from proxy.tunnels import Tunnels
from scheduler.trust.errors import TrustError

log = logs.get("p2pd.daemon.https_proxy")


@asynccontextmanager
async def https_proxy(
    settings: Settings, mirror: Mirror, origins: Origins, background: BackgroundTasks
) -> AsyncIterator[HttpsProxy]:
    """The proxy in front of `mirror`. When the block ends, tunnels that are in use have `shutdown_grace_s`.

    Raises ConfigError.
    """
    at = settings.https_proxy
    try:
        tunnels = Tunnels(background, allow_private=settings.allow_private, is_local=at is None or at.is_loopback)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    pass_on = PassOn(origins)
    try:
        proxy = HttpsProxy(
            Proxied(mirror, pass_on).handle,
            tunnels,
            _authority(settings),
            lambda: origins.upstreams.keys(),
            stall_s=settings.client_stall_s,
        )
        await proxy.prepare()
        yield proxy
        await tunnels.finish(settings.shutdown_grace_s)
    finally:
        tunnels.close()
        await pass_on.close()


def _authority(settings: Settings) -> LocalAuthority | None:
    try:
        return LocalAuthority(settings.data)
    except TrustError as error:
        log.warning("the HTTPS proxy stands for no upstream, and passes everything by", reason=str(error))
        return None
