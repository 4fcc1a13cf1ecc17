"""What the daemon's tests have in common: a registry for it to stand before, and an image in it."""

from __future__ import annotations

import pytest

from tests.p2pd.app_image import APP, IMAGE
from tests.support.fixtures import registry
from tests.support.registry import ImageRegistry

__all__ = ["app_is_pushed", "registry"]


@pytest.fixture
def app_is_pushed(registry: ImageRegistry) -> None:
    """The registry has `IMAGE` as `APP:1.0`."""
    registry.push(APP, "1.0", IMAGE)
