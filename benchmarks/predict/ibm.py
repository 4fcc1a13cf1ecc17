"""Reads the traces of IBM's registry (Anwar et al., FAST 2018) as pulls and pushes.

A file is a JSON array of requests with `http.request.method`, `http.request.uri` (`v2/USER/IMAGE/manifests/HASH` or
`…/blobs/HASH`), `http.request.remoteaddr`, `http.response.written` and `timestamp`. Names and tags are hashes.

1. Requests are sorted: a file is not in the order of time.
2. A GET of a manifest is a pull. Its size is what the client takes of the repository's blobs within `PULL_S`.
3. A PUT of a manifest is a push. What a tag names is not in the trace: it is what was pushed last.
4. The clients are divided into `SITES` sites by a hash of their address.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from scheduler.core.history import PullRecord, PushRecord, Record

PULL_S: Final = 600.0
SITES: Final = 4
REGISTRY: Final = "ibm.test"


class TraceError(Exception):
    """The file is no such trace."""


def read_ibm(paths: Sequence[Path]) -> list[Record]:
    """The records in the order of time. Raises OSError, TraceError."""
    requests = sorted((each for path in paths for each in _requests(path)), key=lambda each: each[0])
    if not requests:
        raise TraceError(f"{paths[0]}: there are no pulls and pushes in it")
    return list(_records(requests))


_Request = tuple[float, str, str, str, str, str, int]
"""Time, method, client, repository, kind, reference, bytes."""


def _requests(path: Path) -> Iterator[_Request]:
    try:
        rows = json.loads(path.read_bytes())
        for row in rows:
            found = _request(row)
            if found is not None:
                yield found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{path} is no trace of IBM's registry: {error}") from None


def _request(row: Mapping[str, Any]) -> _Request | None:
    parts = str(row["http.request.uri"]).strip("/").split("/")
    method, status = row["http.request.method"], int(row.get("http.response.status", 200))
    if len(parts) < 4 or parts[0] != "v2" or parts[-2] not in ("manifests", "blobs") or status >= 400:
        return None
    if method not in ("GET", "PUT"):
        return None
    at = datetime.fromisoformat(row["timestamp"]).timestamp()
    written = int(row.get("http.response.written", 0))
    return at, method, row["http.request.remoteaddr"], "/".join(parts[1:-2]), parts[-2], parts[-1], written


def _records(requests: Sequence[_Request]) -> Iterator[Record]:
    versions: dict[str, int] = {}
    taken: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for at, method, client, repository, kind, _, written in requests:
        if kind == "blobs" and method == "GET":
            taken.setdefault((client, repository), []).append((at, written))
    sizes: dict[str, int] = {}
    for at, method, client, repository, kind, reference, _ in requests:
        image = f"{REGISTRY}/{repository}:{reference}"
        if kind != "manifests":
            continue
        if method == "PUT":
            versions[image] = versions.get(image, 0) + 1
            yield PushRecord(at, image, _digest(image, versions[image]))
            continue
        digest = _digest(image, versions.get(image, 0))
        took = sum(size for when, size in taken.get((client, repository), ()) if at <= when <= at + PULL_S)
        sizes[digest] = max(took, sizes.get(digest, 0))
        if sizes[digest]:
            yield PullRecord(at, image, digest, _site(client), 1, sizes[digest], took, 0)


def _digest(image: str, version: int) -> str:
    return f"sha256:{blake2b(f'{image} {version}'.encode(), digest_size=32).hexdigest()}"


def _site(client: str) -> str:
    return f"site{blake2b(client.encode(), digest_size=1).digest()[0] % SITES}"
