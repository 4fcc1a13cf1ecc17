"""Everybody to the registry: what there is without any way of distributing.

Every client has one stream from the origin, and the origin's line is shared evenly among as many as it has connections
for; the others wait for theirs. N hosts take N S / C, whatever else.

Favourable: the registry's machine keeps up with its line, it refuses nobody, and no client's connection times out while
it waits.
"""

from __future__ import annotations

from benchmarks.policies.stage import Layer, Policy, PolicyHost


class Registry(Policy):
    """Each layer comes from the origin."""

    def pull(self, host: PolicyHost, layer: Layer) -> None:
        self.stage.fetch(host, layer, self._landed, host, layer)

    def _landed(self, index: int, host: PolicyHost, layer: Layer) -> None:
        self.stage.landed(self, host, layer, layer.bytes_of(index))
