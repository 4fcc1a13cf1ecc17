"""How often Python looks for garbage while a scheduler serves.

Nearly everything that a scheduler drops is freed at once, by its count of references. What is left are cycles, such as
those of a closed connection in wsproto. To find them, CPython now and then looks at every object that there is: with
10,000 hosts this takes 50 to 180 ms, in which nobody is answered, and by default it comes several times while they
connect and join. Looking ten times more rarely costs the memory of the connections that were closed in between.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MORE_RARELY: Final = 10
"""At 700,000 more objects than before instead of at 70,000: about 20,000 connections, or 5 KiB each that wait."""


@contextmanager
def rare_full_collections() -> Iterator[None]:
    """Have CPython look at everything more rarely. It is a setting of the whole process, restored at the end."""
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, old * MORE_RARELY)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)
