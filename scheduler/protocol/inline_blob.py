"""A blob inside a message: the only message that travels in both directions."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.protocol.fields import Content64K, Digest


@dataclass(frozen=True, slots=True)
class InlineBlob:
    """A whole blob of at most 64 KiB. The receiver first checks the data against `digest`."""

    digest: Digest
    data: Content64K
