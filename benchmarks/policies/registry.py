"""All clients at the registry: the baseline without any distribution.

Every client has one stream from the origin. The origin's line is shared evenly among its connections, and clients
beyond their number wait for a connection. N hosts take N S / C in any case.

Favourable: the registry's machine keeps up with its line, it refuses no client, and no waiting client times out.
"""

from __future__ import annotations

from benchmarks.policies.stage import Layer, Policy, PolicyHost


class Registry(Policy):
    """Each layer comes from the origin."""

    def pull(self, host: PolicyHost, layer: Layer) -> None:
        self.stage.fetch(host, layer, self._landed, host, layer)

    def _landed(self, index: int, host: PolicyHost, layer: Layer) -> None:
        self.stage.landed(self, host, layer, layer.bytes_of(index))
