"""Imports aiohttp without two things that it loads and p2pd never uses: 3 MiB of the memory of a daemon.

1. `aiohttp.connector` makes two contexts of TLS, and reads the system's authorities into each: 2 MiB, and 30 ms. All
   that p2pd says over TLS has a context of its own (`peer.origin.trust`, `scheduler.trust.tls`). Without authorities,
   those two trust nobody.
2. frozenlist, which aiohttp has for lists of callbacks, loads libstdc++ with its compiled half: 1 MiB.

Both are told by variables of the environment, which hold only while aiohttp is imported for the first time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

WITHOUT: Final[Mapping[str, str]] = {
    "SSL_CERT_FILE": os.devnull,
    "SSL_CERT_DIR": os.devnull,
    "FROZENLIST_NO_EXTENSIONS": "1",
}


def import_aiohttp() -> None:
    """Before any module that imports aiohttp, and while there is one thread."""
    before = {name: os.environ.get(name) for name in WITHOUT}
    os.environ.update(WITHOUT)
    try:
        import aiohttp  # noqa: F401 # here, and not above: see there
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
