"""A client that takes a blob in two parts, so that something happens to the mirror between them."""

from __future__ import annotations

import hashlib
import http.client

from tests.support.registry_server import PATIENCE_S

_FIRST_BYTES = 1024 * 1024


class Pull:
    """A GET of a blob whose first MiB has arrived. The rest is in buffers and with the mirror."""

    def __init__(self, mirror: str, repository: str, digest: str) -> None:
        self._digest = digest
        self._connection = http.client.HTTPConnection(mirror, timeout=PATIENCE_S)
        self._connection.request("GET", f"/v2/{repository}/blobs/{digest}")
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        self._first = self._answer.read(_FIRST_BYTES)
        assert len(self._first) == _FIRST_BYTES

    def finish(self) -> None:
        """Take the rest. Raises AssertionError if it is not the blob, http.client.IncompleteRead if some is missing."""
        rest = self._answer.read()
        self._connection.close()
        assert "sha256:" + hashlib.sha256(self._first + rest).hexdigest() == self._digest
