"""A blob inside a message: the one message that travels both ways."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.protocol.fields import Content64K, Digest


@dataclass(frozen=True, slots=True)
class InlineBlob:
    """All of a blob of 64 KiB or less. Whoever receives it checks it against `digest` first."""

    digest: Digest
    data: Content64K
