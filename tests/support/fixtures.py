"""Fixtures that several packages of tests take into their conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.registry import ImageRegistry


@pytest.fixture
def registry() -> Iterator[ImageRegistry]:
    with ImageRegistry() as registry:
        yield registry
