"""What the daemon's tests have in common: a registry for it to stand before."""

from tests.proxy.conftest import registry

__all__ = ["registry"]
