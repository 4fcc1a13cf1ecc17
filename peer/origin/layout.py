"""An origin that is a directory: one OCI image layout, or a tree of them (`oci-layout:///path`).

For air-gapped sites, demonstrations and tests: it gives a registry's answers from files that skopeo, podman, buildah,
docker or `p2pd pull` wrote.

Rules:
1. If `DIRECTORY/oci-layout` exists, the directory is one layout for every repository. Otherwise
   `DIRECTORY/library/app` is the layout of the repository `library/app`.
2. index.json is read again when it has changed. `layout_index` says which names it gives to manifests.
3. Every client of p2pd may read a layout: it has no credentials, and clients' credentials are ignored.
4. Nothing is hashed here. Callers verify the bytes of every origin, and so of this origin.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal, NoReturn
from urllib.parse import parse_qs, urlencode

from msgspec import Struct

from peer.errors import InvalidNameError, ManifestError, OriginRefusedError, OriginUnreachableError
from peer.oci.descriptor import OCTET_STREAM
from peer.oci.digest import AnyDigest
from peer.oci.layout_index import Listing, parse_listing
from peer.oci.manifest import MAX_MANIFEST_BYTES, OCI_INDEX, Manifest, parse_manifest
from peer.oci.reference import parse_reference, parse_repository_name
from peer.origin.api import MAX_ANSWER_BYTES, Answer, ContentRef, Credential, Kind
from peer.origin.layout_file import LayoutBody, open_below

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from peer.oci.reference import RepositoryName, Tag

_PATH = re.compile(r"(?P<repository>.+)/(?:(?P<endpoint>manifests|blobs|referrers)/(?P<last>[^/]+)|tags/list)")
_JSON_TYPE = "application/json"
_DIGEST_HEADER = "docker-content-digest"
_NUMBER = re.compile(r"[0-9]{1,9}")
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""The system's errors for a name that does not exist, or has a symbolic link in it."""


@dataclass(slots=True)
class _Index:
    """An index.json as it was when the file had `identity`, and the referrers, once they are worked out."""

    identity: tuple[int, int, int]
    listing: Listing
    referrers: Mapping[AnyDigest, list[dict[str, object]]] | None = None


class _Manifest(Struct, frozen=True):
    digest: AnyDigest
    body: bytes
    parsed: Manifest

    def as_referrer(self) -> dict[str, object]:
        """Its descriptor in a list of referrers (distribution specification, "Listing Referrers")."""
        return {
            "mediaType": self.parsed.media_type,
            "digest": self.digest,
            "size": len(self.body),
            "artifactType": self.parsed.artifact_type,
            "annotations": self.parsed.annotations,
        }


class LayoutOrigin:
    """The `Origin` of `directory`, for the upstream `upstream` (`docker.io`)."""

    def __init__(self, directory: Path, *, upstream: str) -> None:
        self.directory = directory
        self._upstream = upstream
        self._closed = False
        self._indexes: dict[tuple[str, ...], _Index] = {}  # by the folders below the directory

    def request(
        self,
        method: Literal["GET", "HEAD"],
        path: str,
        *,
        credential: Credential,  # noqa: ARG002 (rule 3)
        headers: Mapping[str, str] | None = None,  # noqa: ARG002 (a layout has one form of everything)
    ) -> Answer:
        """See `Origin.request`. Raises OriginUnreachableError if the directory or its index.json cannot be used."""
        self._check_usable()
        path, _, query = path.partition("?")
        try:
            answer = self._answer(path, query, with_body=method == "GET")
        except OriginRefusedError as refusal:
            answer = _answer(_JSON_TYPE, refusal.body, status=refusal.status)
        return Answer(answer.status, answer.headers, answer.body if method == "GET" else b"")

    def open(
        self,
        ref: ContentRef,
        start: int,
        stop: int | None,
        *,
        credential: Credential,  # noqa: ARG002 (rule 3)
    ) -> LayoutBody:
        """See `Origin.open`."""
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError(f"[{start}, {stop}) is not a range of bytes")
        self._check_usable()
        repository = _repository(ref.repository)
        digest = ref.digest
        media_type = OCTET_STREAM
        if ref.kind is Kind.MANIFEST:
            media_type = self._manifest(repository, digest).parsed.media_type
        file = self._open_blob(repository, digest)
        size_bytes = os.fstat(file).st_size
        if start and start >= size_bytes:
            os.close(file)
            _refuse(416, "SIZE_INVALID", f"{digest} has {size_bytes} bytes, and {start} is beyond its end")
        stop = size_bytes if stop is None else min(stop, size_bytes)
        return LayoutBody(file, start=start, stop=stop, size_bytes=size_bytes, media_type=media_type, digest=digest)

    def close(self) -> None:
        """See `Origin.close`. Open bodies can be read to their end."""
        self._closed = True

    def _check_usable(self) -> None:
        if self._closed:
            raise OriginUnreachableError(f"the layout {self.directory} was closed")
        try:
            usable = self.directory.is_dir()
        except OSError:
            usable = False
        if not usable:
            raise OriginUnreachableError(
                f"the layout {self.directory} is not a directory that p2pd can read: check --upstream"
            )

    def _answer(self, path: str, query: str, *, with_body: bool) -> Answer:
        if not path:
            return _answer(_JSON_TYPE, b"{}")
        parts = _PATH.fullmatch(path)
        if parts is None:
            _refuse(404, "UNSUPPORTED", f"no such endpoint: {path[:80]!a}")
        repository, last = _repository(parts["repository"]), parts["last"]
        match parts["endpoint"]:
            case "manifests":
                return self._manifest_answer(repository, last)
            case "blobs":
                return self._blob_answer(repository, _digest(last), with_body=with_body)
            case "referrers":
                return self._referrers_answer(repository, _digest(last), query)
        return self._tags_answer(repository, query)

    def _manifest_answer(self, repository: RepositoryName, text: str) -> Answer:
        try:
            reference = parse_reference(text)
        except InvalidNameError as error:
            _refuse(404, "MANIFEST_UNKNOWN", str(error))
        manifest = self._manifest(repository, reference)
        return _answer(manifest.parsed.media_type, manifest.body, {_DIGEST_HEADER: manifest.digest})

    def _blob_answer(self, repository: RepositoryName, digest: AnyDigest, *, with_body: bool) -> Answer:
        with os.fdopen(self._open_blob(repository, digest), "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if with_body and size_bytes > MAX_ANSWER_BYTES:
                raise OriginUnreachableError(f"{digest} has {size_bytes} bytes, too many for one small answer")
            body = _read(file, MAX_ANSWER_BYTES) if with_body else b""
        return _answer(OCTET_STREAM, body, {"content-length": str(size_bytes), _DIGEST_HEADER: digest})

    def _tags_answer(self, repository: RepositoryName, query: str) -> Answer:
        tags = sorted(self._index(repository).listing.tags(self._upstream, repository))
        if not tags:
            _refuse(404, "NAME_UNKNOWN", f"no manifest of the layout is named after {repository}")
        fields = parse_qs(query)
        after = fields.get("last", [""])[0]
        limit = fields.get("n", [str(len(tags))])[0]
        if not _NUMBER.fullmatch(limit):
            _refuse(400, "PAGINATION_NUMBER_INVALID", "n is not a whole number")
        rest = [tag for tag in tags if tag > after]
        page = rest[: int(limit)]
        more = {}
        if page and len(page) < len(rest):
            following = urlencode({"n": limit, "last": page[-1]})
            more["link"] = f'</v2/{repository}/tags/list?{following}>; rel="next"'
        return _answer(_JSON_TYPE, _json({"name": repository, "tags": page}), more)

    def _referrers_answer(self, repository: RepositoryName, subject: AnyDigest, query: str) -> Answer:
        referrers = self._referrers(repository).get(subject, [])
        wanted = parse_qs(query).get("artifactType", [None])[0]
        more = {}
        if wanted:
            referrers = [referrer for referrer in referrers if referrer["artifactType"] == wanted]
            more["oci-filters-applied"] = "artifactType"
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": referrers}
        return _answer(OCI_INDEX, _json(index), more)

    def _referrers(self, repository: RepositoryName) -> Mapping[AnyDigest, list[dict[str, object]]]:
        """The descriptors of the listed manifests that have a subject, by that subject."""
        index = self._index(repository)
        if index.referrers is None:
            referrers: defaultdict[AnyDigest, list[dict[str, object]]] = defaultdict(list)
            for listed in index.listing.manifests:
                try:
                    manifest = self._manifest(repository, listed.digest)
                except OriginRefusedError:
                    continue  # it is listed but missing: it refers to nothing
                if manifest.parsed.subject is not None:
                    referrers[manifest.parsed.subject.digest].append(manifest.as_referrer())
            index.referrers = referrers
        return index.referrers

    def _manifest(self, repository: RepositoryName, reference: Tag | AnyDigest) -> _Manifest:
        """The manifest `reference`. Its media type is from its descriptor, else from the manifest itself."""
        listing = self._index(repository).listing
        if isinstance(reference, AnyDigest):
            digest, media_type = reference, listing.media_type(reference)
        else:
            descriptor = listing.tags(self._upstream, repository).get(reference)
            if descriptor is None:
                _refuse(404, "MANIFEST_UNKNOWN", f"no manifest of the layout is named {repository}:{reference}")
            digest, media_type = descriptor.digest, descriptor.media_type
        with os.fdopen(self._open_blob(repository, digest, code="MANIFEST_UNKNOWN"), "rb") as file:
            body = _read(file, MAX_MANIFEST_BYTES + 1)
        try:
            return _Manifest(digest, body, parse_manifest(body, media_type))
        except ManifestError as error:
            _refuse(404, "MANIFEST_UNKNOWN", f"{digest} is in the layout, but as a manifest it is of no use: {error}")

    def _index(self, repository: RepositoryName) -> _Index:
        """The index.json that has the manifests of `repository`, read anew if it has changed."""
        folders = self._folders(repository)
        descriptor = self._open_file((*folders, "index.json"))
        if descriptor is None:
            if folders:
                _refuse(404, "NAME_UNKNOWN", f"there is no layout for {repository}")
            raise OriginUnreachableError(f"the layout {self.directory} has no index.json: write it again")
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            identity = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._indexes.get(folders)
            if known is not None and known.identity == identity:
                return known
            body = _read(file, MAX_MANIFEST_BYTES + 1)
        try:
            index = _Index(identity, parse_listing(body))
        except ManifestError as error:
            where = "/".join((str(self.directory), *folders, "index.json"))
            raise OriginUnreachableError(f"{where} is not an image index, write the layout again: {error}") from None
        self._indexes[folders] = index
        return index

    def _open_blob(self, repository: RepositoryName, digest: AnyDigest, *, code: str = "BLOB_UNKNOWN") -> int:
        file = self._open_file((*self._folders(repository), "blobs", digest.algorithm, digest.hex))
        if file is None:
            _refuse(404, code, f"{digest} is not in the layout of {repository} (symbolic links are not followed)")
        return file

    def _folders(self, repository: RepositoryName) -> tuple[str, ...]:
        """The folders from the directory to the layout of `repository` (rule 1)."""
        marker = self._open_file(("oci-layout",))
        if marker is None:
            return tuple(repository.split("/"))
        os.close(marker)
        return ()

    def _open_file(self, names: tuple[str, ...]) -> int | None:
        """Open a file below the directory; None if there is no file that rule 1 of `layout_file` allows."""
        try:
            return open_below(self.directory, names)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise OriginUnreachableError(
                f"{'/'.join(names)} in {self.directory} cannot be opened: {error.strerror}"
            ) from None


def _read(file: BinaryIO, limit: int) -> bytes:
    """At most `limit` bytes of `file`."""
    try:
        return file.read(limit)
    except OSError as error:
        raise OriginUnreachableError(f"the layout cannot be read: {error.strerror}") from None


def _repository(text: str) -> RepositoryName:
    try:
        return parse_repository_name(text)
    except InvalidNameError as error:
        _refuse(400, "NAME_INVALID", str(error))


def _digest(text: str) -> AnyDigest:
    try:
        return AnyDigest(text)
    except InvalidNameError as error:
        _refuse(400, "DIGEST_INVALID", str(error))


def _refuse(status: int, code: str, message: str) -> NoReturn:
    body = _json({"errors": [{"code": code, "message": message}]})
    raise OriginRefusedError(message, status=status, headers={"content-type": _JSON_TYPE}, body=body)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _answer(media_type: str, body: bytes, more: Mapping[str, str] | None = None, *, status: int = 200) -> Answer:
    headers = {"content-type": media_type, "content-length": str(len(body)), **(more or {})}
    return Answer(status, headers, body)
