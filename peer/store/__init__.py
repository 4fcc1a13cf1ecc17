"""The piece store: one file a blob, written out of order, with a durable record of the pieces that are verified."""

from peer.store.blob import Blob, Landed
from peer.store.store import BlobInfo, Store, VerifyReport

__all__ = ["Blob", "BlobInfo", "Landed", "Store", "VerifyReport"]
