"""What holds in every test: Hypothesis without deadlines, for machines differ, and with the same examples each time.

`make fuzz` (`tests.fuzz`) runs the same tests with other examples: `--hypothesis-profile=fuzz`. Which file comes
when: `pytest_collection_modifyitems`.
"""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from tests.support.redis_server import own_redis, redis_place, shared_redis

__all__ = ["own_redis", "redis_place", "shared_redis"]

_HERE: Final = Path(__file__).parent
_LONGEST: Final = _HERE / "test_benchmarks_compiling.py"
_APART: Final = 8


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Iterator[None]:
    """What is loaded here stays to the end: the collector of garbage need not go through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """No process is idle at the end or waits for others: the longest test is first, and one file in eight is real.

    Files with real programs wait for their programs, and for each other while the programs are installed. In the order
    of names all processes would do so at the same time.
    """
    if not hasattr(config, "workerinput"):  # of xdist
        return
    files = list(dict.fromkeys(item.path for item in items))
    real = [file for file in files if file.is_relative_to(_HERE / "real")]
    place = {file: number for number, file in enumerate(files)}
    place |= {file: number * _APART for number, file in enumerate(real)}
    place[_LONGEST] = -1
    items.sort(key=lambda item: place[item.path])


settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile(
    "fuzz",
    deadline=None,
    derandomize=False,
    max_examples=500,
    # It may run beside other work, and each session of pytest makes the classes of tests anew.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("same")
