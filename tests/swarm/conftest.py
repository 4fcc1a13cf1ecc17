"""A registry for the nodes of a swarm."""

from tests.support.fixtures import registry

__all__ = ["registry"]
