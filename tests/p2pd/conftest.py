"""What the daemon's tests have in common: a registry for it to stand before."""

from tests.support.fixtures import registry

__all__ = ["registry"]
