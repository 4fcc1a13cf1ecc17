"""A registry for the nodes of a swarm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.proxy.registry import ImageRegistry


@pytest.fixture
def registry() -> Iterator[ImageRegistry]:
    with ImageRegistry() as registry:
        yield registry
