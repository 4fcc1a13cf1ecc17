"""What is remembered of pulls and of pushes, for predictions. Times are Unix seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PullRecord:
    """Hosts of a site pulled an image, which is named in full and by its tag, within a few minutes.

    `digest` is what the tag named. `size_bytes` is the most that one client took, `total_bytes` is what all of them
    took, and `warm_bytes` of these were in the stores of their hosts already.
    """

    at: float
    image: str
    digest: str
    site: str
    hosts: int
    size_bytes: int
    total_bytes: int
    warm_bytes: int


@dataclass(frozen=True, slots=True)
class PushRecord:
    """A tag was pushed, as a registry has told. `digest` is "" if that was not told."""

    at: float
    image: str
    digest: str = ""


Record = PullRecord | PushRecord
