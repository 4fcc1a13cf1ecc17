"""The garbage collector's thresholds while a scheduler serves.

Reference counts free nearly all objects that a scheduler drops. The rest are cycles, such as the cycles of a closed
connection in wsproto. To find cycles, CPython examines all objects from time to time. With 10,000 hosts this takes 50
to 180 ms, during which no host is answered, and with the default thresholds it happens several times while the hosts
connect and join. A threshold ten times as high costs the memory of the connections that were closed in between.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MORE_RARELY: Final = 10
"""A full collection after 700,000 new objects instead of 70,000: about 20,000 connections, or 5 KiB per closed one."""


@contextmanager
def rare_full_collections() -> Iterator[None]:
    """Make full collections rarer. The thresholds are of the whole process and are restored at the end."""
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, old * MORE_RARELY)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)
