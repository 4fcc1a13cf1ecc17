"""What most tests of downloads begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.store import Store
from tests.peer.download_fixtures import (
    CONTENT,
    LARGE,
)
from tests.peer.fakes import FakeOrigin
from tests.peer.store_fixtures import a_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with a_store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def origin() -> Iterator[FakeOrigin]:
    origin = FakeOrigin([CONTENT, LARGE])
    yield origin
    origin.close()
