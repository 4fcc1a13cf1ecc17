"""The upkeep of what a node has on its disk: eviction, and seeing whether the disk is well."""

from __future__ import annotations

import asyncio
import time

from p2pd.daemon import logs
from peer.store import Store
from proxy.catalog import Catalog

log = logs.get("p2pd.daemon")

TEND_EVERY_S = 60.0
TRY_AGAIN_S = 5.0
"""How soon a disk that takes nothing is tried again."""


async def tend(store: Store) -> None:
    """See to the store once."""
    for blob in await asyncio.to_thread(store.tend):
        log.info("evicted", digest=blob.digest, size_bytes=blob.size_bytes)


async def tend_for_ever(store: Store, catalog: Catalog) -> None:
    """See to store and catalog every `TEND_EVERY_S`, and every `TRY_AGAIN_S` while something is wrong."""
    seen_at = time.monotonic()
    while True:
        await asyncio.sleep(TRY_AGAIN_S)
        if store.state.is_well and catalog.is_well and time.monotonic() - seen_at < TEND_EVERY_S:
            continue
        seen_at = time.monotonic()
        await tend(store)
        catalog.try_again()
