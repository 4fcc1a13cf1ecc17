"""The piece store: one file for each blob, written out of order, and a durable record of its verified pieces."""

from peer.store.blob import Blob, Landed
from peer.store.facts import BlobInfo, VerifyReport
from peer.store.store import Store

__all__ = ["Blob", "BlobInfo", "Landed", "Store", "VerifyReport"]
