"""Which certificates an upstream is trusted by: the system's authorities, and those that the operator named.

Rules:
1. Each certificate that the operator named is trusted by itself, as Go and curl do, whether it is a root, an issuing
   authority or the registry's own (RFC 5280, section 6.1.1: a trust anchor need not be self-signed).
2. A directory means its certificates, as docker's `certs.d` does. A file or directory that has changed is read again.
3. What does not parse as a certificate does not keep the others from being used. None at all is an error.
"""

from __future__ import annotations

import functools
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from peer.origin.watched import Watched

if TYPE_CHECKING:
    from peer.origin.clock import Clock
    from peer.origin.upstream import Upstream

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SUFFIXES = frozenset({".crt", ".pem", ".cer"})
"""In a directory. docker's `certs.d` has `.crt` for authorities; `.cert` and `.key` there are a client's own."""


class TrustedContext:
    """The TLS context for one upstream. Raises ValueError if its authorities cannot be read."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._watched: Watched[ssl.SSLContext] | None = None
        if upstream.ca_file is not None:
            path = upstream.ca_file
            self._watched = Watched(path, lambda: _context_with(upstream.name, path), clock)

    def get(self) -> ssl.SSLContext:
        """The context now."""
        return self._watched.get() if self._watched else _system_context()


@functools.cache
def _system_context() -> ssl.SSLContext:
    """One context for all upstreams: reading the system's authorities takes 30 ms and 1 MiB."""
    return _new_context()


def _new_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    # As Go: any certificate of ours is an anchor, and old authorities lack extensions that RFC 5280 wants. Python sets
    # both flags from 3.13 on.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _context_with(upstream: str, path: Path) -> ssl.SSLContext:
    wrong = f"upstream {upstream}: no CA could be read from {path}"
    try:
        files = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES) if path.is_dir() else [path]
        blocks = [block for file in files for block in _CERTIFICATE.findall(file.read_bytes())]
    except OSError as error:
        raise ValueError(f"{wrong}: {error}") from None
    context = _context_of(tuple(blocks))
    if context is None:
        raise ValueError(f"{wrong}: it has no certificate (-----BEGIN CERTIFICATE-----)")
    return context


@functools.lru_cache(maxsize=16)
def _context_of(blocks: tuple[bytes, ...]) -> ssl.SSLContext | None:
    """One context for all upstreams with these certificates; None if none of them parses."""
    context = _new_context()
    trusted = [block for block in blocks if _add(context, block)]
    return context if trusted else None


def _add(context: ssl.SSLContext, block: bytes) -> bool:
    try:
        context.load_verify_locations(cadata=block.decode("ascii"))
    except (ssl.SSLError, ValueError):
        return False
    return True
