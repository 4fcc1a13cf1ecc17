"""The phases of a download, and what moves it from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from peer.core.events import Phase


class DownloadCause(Enum):
    """What moves a download from one phase to another."""

    RECOVERED = auto()
    """The store has said what it has of the blob."""
    SHA256_RIGHT = auto()
    CORRUPT = auto()
    """The bytes, or the store, are wrong."""
    NO_SOURCE = auto()
    """Nobody is left to ask."""
    REFUSED = auto()
    """The origin's answer to others says that nobody gets the blob."""
    STORE_FAILED = auto()
    MAP_WRONG = auto()
    UNWANTED = auto()
    """Nobody has read it for too long, or p2pd stops."""


_FAILURES: Final = {DownloadCause.STORE_FAILED: Phase.FAILED, DownloadCause.UNWANTED: Phase.ABANDONED}

DOWNLOAD_TRANSITIONS: Final[Mapping[Phase, Mapping[DownloadCause, Phase]]] = {
    Phase.RECOVERING: {
        DownloadCause.RECOVERED: Phase.FETCHING,
        DownloadCause.SHA256_RIGHT: Phase.COMPLETE,
        **_FAILURES,
    },
    Phase.FETCHING: {
        DownloadCause.SHA256_RIGHT: Phase.COMPLETE,
        DownloadCause.CORRUPT: Phase.FAILED,
        DownloadCause.NO_SOURCE: Phase.FAILED,
        DownloadCause.REFUSED: Phase.FAILED,
        DownloadCause.MAP_WRONG: Phase.DISPROVED,
        **_FAILURES,
    },
    Phase.COMPLETE: {},
    Phase.FAILED: {},
    Phase.ABANDONED: {},
    Phase.DISPROVED: {},
}
