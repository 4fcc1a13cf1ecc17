"""What the mirror's tests have in common: a registry, and a log without errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.fixtures import registry

__all__ = ["errors_logged", "registry"]


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def errors_logged() -> Iterator[list[logging.LogRecord]]:
    """What was logged as an error. There is to be none; a test that expects some takes them out of the list."""
    handler = _Records()
    logging.getLogger().addHandler(handler)
    yield handler.records
    logging.getLogger().removeHandler(handler)
    assert [record.getMessage() for record in handler.records] == []
