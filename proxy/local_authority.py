"""The node's own authority, by which its HTTPS proxy stands for the upstreams: `DATA/https-proxy`.

    authority.key   its key, 0600, made at the first start with `https_proxy`
    HOST.crt        the authority for one host, which dockerd is told of (`p2pd configure docker --https-proxy`)

`proxy.core.host_certificates` has what the certificates say.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from proxy.core.host_certificates import Leaf, is_authority, issue_leaf, make_authority, read_key
from scheduler.trust.certificates import key_to_pem, new_key, to_pem
from scheduler.trust.errors import UnsafeFileError
from scheduler.trust.files import make_private_directory, read_private, read_public, write_private
from scheduler.trust.tls import show, use_kernel_tls

FOLDER: Final = "https-proxy"
_KEY: Final = "authority.key"


def authority_file(data: Path, host: str) -> Path:
    """The certificate of the authority for a host, in the data directory of a node."""
    return data / FOLDER / f"{host}.crt"


class LocalAuthority:
    """The authority in the data directory of a node, made if it is not there. Raises TrustError."""

    def __init__(self, data: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._data = data
        self._clock = clock
        self._contexts: dict[str, tuple[ssl.SSLContext, Leaf]] = {}
        make_private_directory(data / FOLDER)
        path = data / FOLDER / _KEY
        try:
            self._key = read_key(read_private(path))
        except FileNotFoundError:
            self._key = new_key()
            write_private(path, key_to_pem(self._key))
        except ValueError as error:
            raise UnsafeFileError(f"{path} is not the key that p2pd wrote ({error}): remove it") from None

    def prepare(self, hosts: Iterable[str]) -> None:
        """Have the authority of each host on the disk. Raises TrustError."""
        for host in hosts:
            self._authority(host)

    def context(self, host: str) -> ssl.SSLContext:
        """The TLS context of a server that stands for `host`. Raises TrustError."""
        context, leaf = self._contexts.get(host, (None, None))
        if context is None or leaf is None or leaf.renew_at <= self._clock():
            leaf = issue_leaf(self._authority(host), self._key, host, self._clock())
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
            use_kernel_tls(context)
            show(context, leaf.key_pem, leaf.chain_pem)
            self._contexts[host] = context, leaf
        return context

    def _authority(self, host: str) -> bytes:
        path = authority_file(self._data, host)
        try:
            pem = read_public(path)
        except FileNotFoundError:
            pem = b""
        if not is_authority(pem, self._key, host, self._clock()):
            pem = to_pem(make_authority(self._key, host, self._clock()))
            write_private(path, pem)
        return pem
