"""The piece store: one file for each blob, written out of order, and a durable record of its verified pieces."""

from peer.store.blob import Blob, Landed
from peer.store.store import BlobInfo, Store, VerifyReport

__all__ = ["Blob", "BlobInfo", "Landed", "Store", "VerifyReport"]
