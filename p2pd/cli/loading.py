"""The collector of garbage while a daemon's modules are imported: what they make lives as long as the process.

CPython looks for cycles after each 700 new objects, and then several times more through those that were none: 158 times
while a node is imported, a tenth of the CPU time of its start.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

NEW_OBJECTS: Final = 10_000
"""The few cycles that imports do leave behind are still found: without any collection they would be 0.8 MiB."""


@contextmanager
def loading() -> Iterator[None]:
    """Look for garbage rarely while modules are imported, and never again at what is there at the end."""
    young, *older = gc.get_threshold()
    gc.set_threshold(NEW_OBJECTS, *older)
    try:
        yield
    finally:
        gc.set_threshold(young, *older)
        gc.freeze()
