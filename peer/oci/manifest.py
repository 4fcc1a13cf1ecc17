"""Manifests and indexes: the descriptors of the blobs below them.

Rules:
1. Any bytes give a `Manifest` or a ManifestError, within bounds of time and memory that the sender cannot raise.
2. Manifests are read, never written: clients get the origin's own bytes.
3. One document has one meaning. A document that could be an image and an index is refused (CVE-2021-41190).

The forms are OCI's image specification 1.1 (`manifest.md`, `image-index.md`, `descriptor.md`) and Docker's
schema 2. Docker's schema 1 is refused by name. If a key occurs twice, its last value counts, as in Go.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, cast

from peer.errors import InvalidNameError, ManifestError
from peer.oci.descriptor import Descriptor, Platform
from peer.oci.digest import AnyDigest

if TYPE_CHECKING:
    from collections.abc import Mapping

OCI_IMAGE: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_IMAGE: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
"""The limit of registries (distribution specification, "Pushing manifests") and of containerd."""

MAX_DESCRIPTORS: Final = 10_000
"""Far more than real manifests have (Docker stops at 127 layers). So many are parsed within a second."""

MAX_SIZE_BYTES: Final = 2**63 - 1
"""The greatest size that a descriptor can have (image specification: int64)."""


class ManifestKind(Enum):
    """The kind of the children: a config and layers, or manifests."""

    IMAGE = "image"
    INDEX = "index"


KIND_BY_MEDIA_TYPE: Final[Mapping[str, ManifestKind]] = {
    OCI_IMAGE: ManifestKind.IMAGE,
    DOCKER_IMAGE: ManifestKind.IMAGE,
    OCI_INDEX: ManifestKind.INDEX,
    DOCKER_INDEX: ManifestKind.INDEX,
}
"""Every media type of a manifest that p2pd reads."""

ANY_MANIFEST: Final = ", ".join((*KIND_BY_MEDIA_TYPE, "*/*"))
"""The Accept header for a manifest whose type is not known. A registry answers 404 for a type that is not named, gives
another manifest in its place, or converts it."""

DOCKER_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA_1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

_SCHEMA_1 = re.compile(r"application/vnd\.docker\.distribution\.manifest\.v1\+(?:json|prettyjws)")
_VENDORS_JSON = re.compile(r"application/vnd\.[a-z0-9.+-]{1,100}\+(?:json|prettyjws)")
"""Every manifest's type so far, also OCI's former artifacts (`application/vnd.oci.artifact.manifest.v1+json`)."""
_FOREIGN = re.compile(
    r"application/vnd\.docker\.image\.rootfs\.foreign\..*"
    r"|application/vnd\.oci\.image\.layer\.nondistributable\..*"
)
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE = re.compile(rf"{_NAME}/{_NAME}")  # RFC 6838, section 4.2
_PLATFORM_WORD = re.compile(r"[A-Za-z0-9_.-]{0,64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or an index.

    `children` are in the document's order: the config and then the layers of an image from the lowest up, or the
    manifests of an index. `subject` is the manifest that this manifest refers to, such as the image of a signature.
    `artifact_type` is its type in a list of referrers: its own, or else the config's media type.
    """

    media_type: str
    kind: ManifestKind
    children: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


def essence(content_type: str | None) -> str:
    """The media type in a Content-Type, in lower case and without parameters; empty if there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_manifest_type(content_type: str) -> bool:
    """Whether an answer of this type can be a manifest, by p2pd understood or not. Pages and plain JSON can not."""
    return _VENDORS_JSON.fullmatch(essence(content_type)) is not None


def manifest_type(body: bytes, content_type: str | None = None) -> str:
    """The media type of a manifest, by p2pd understood or not; `content_type` is the one that it came with.

    A manifest is a JSON object with a `schemaVersion`, or a `mediaType` of a manifest. The type that it came with goes
    before its own, that before the type that its form suggests. Raises ManifestError for what is no manifest.
    """
    fields = _document(body)
    own = fields.get("mediaType")
    own_type = essence(own) if isinstance(own, str) else ""
    if type(fields.get("schemaVersion")) is not int and not is_manifest_type(own_type):
        raise ManifestError("this is no manifest: it has neither a `schemaVersion` nor a manifest's `mediaType`")
    given = essence(content_type)
    if is_manifest_type(given):
        return given
    if is_manifest_type(own_type):
        return own_type
    if fields.get("schemaVersion") == 1:
        return DOCKER_SCHEMA_1_SIGNED if "signatures" in fields else DOCKER_SCHEMA_1
    return OCI_INDEX if "manifests" in fields else OCI_IMAGE


def parse_manifest(body: bytes, content_type: str | None = None) -> Manifest:
    """Read the manifest or index `body`. `content_type` is its Content-Type, or the media type of its descriptor.

    A document without any type is OCI's: before 1.1 the type was optional. Raises ManifestError.
    """
    fields = _document(body)
    media_type = _media_type_of(fields, content_type)
    kind = KIND_BY_MEDIA_TYPE[media_type]
    _refuse_ambiguity(fields, kind)
    if kind is ManifestKind.IMAGE:
        config = _descriptor(fields.get("config"), "config")
        children = [config, *_descriptors(fields, "layers")]
        type_of_config: str | None = config.media_type
    else:
        children = _descriptors(fields, "manifests")
        type_of_config = None
    subject = fields.get("subject")
    return Manifest(
        media_type=media_type,
        kind=kind,
        children=tuple(children),
        subject=None if subject is None else _descriptor(subject, "subject"),
        artifact_type=_optional_media_type(fields, "artifactType") or type_of_config,
        annotations=_annotations(fields, "the manifest"),
    )


def _document(body: bytes) -> Mapping[str, object]:
    if len(body) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"a manifest of {len(body)} bytes is larger than {MAX_MANIFEST_BYTES}")
    try:
        # Deep nesting raises RecursionError, a number with too many digits ValueError.
        document = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"not JSON in UTF-8: {error}") from None
    return _object(document, "a manifest")


def _media_type_of(fields: Mapping[str, object], content_type: str | None) -> str:
    given = essence(content_type) or None
    own = _optional_media_type(fields, "mediaType")
    if fields.get("schemaVersion") == 1 or _SCHEMA_1.fullmatch(own or given or ""):
        raise ManifestError("an image of Docker's schema 1 is not supported: push it again with a current client")
    if fields.get("schemaVersion") != 2:
        raise ManifestError("`schemaVersion` is not 2")
    if own and given and own != given:
        raise ManifestError(f"the manifest says that it is {own}, and came as {given[:80]!a}")
    media_type = own or given or (OCI_INDEX if "manifests" in fields else OCI_IMAGE)
    if media_type not in KIND_BY_MEDIA_TYPE:
        raise ManifestError(f"{media_type[:80]!a} is not a manifest or an index of OCI or Docker")
    return media_type


def _refuse_ambiguity(fields: Mapping[str, object], kind: ManifestKind) -> None:
    others = ("manifests", "fsLayers") if kind is ManifestKind.IMAGE else ("config", "layers", "fsLayers")
    for name in others:
        if name in fields:
            raise ManifestError(f"an {kind.value} must not have `{name}`")


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ManifestError(f"{what} is not a JSON object")
    return cast("dict[str, object]", value)


def _descriptors(fields: Mapping[str, object], name: str) -> list[Descriptor]:
    """The descriptors in the list `name`. Go programs write an empty list as null."""
    if name not in fields:
        raise ManifestError(f"`{name}` is missing")
    values = fields[name] or []
    if not isinstance(values, list):
        raise ManifestError(f"`{name}` is not a list")
    if len(values) > MAX_DESCRIPTORS:
        raise ManifestError(f"`{name}` has {len(values)} descriptors, and {MAX_DESCRIPTORS} are allowed")
    return [_descriptor(value, f"{name}[{index}]") for index, value in enumerate(values)]


def _descriptor(value: object, what: str) -> Descriptor:
    fields = _object(value, what)
    media_type = _optional_media_type(fields, "mediaType")
    if not media_type:
        raise ManifestError(f"{what} has no `mediaType`")
    try:
        digest = AnyDigest(_text(fields.get("digest"), f"the digest of {what}"))
    except InvalidNameError as error:
        raise ManifestError(f"{what}: {error}") from None
    size_bytes = fields.get("size")
    if type(size_bytes) is not int or not 0 <= size_bytes <= MAX_SIZE_BYTES:
        raise ManifestError(f"the size of {what} is not a whole number from 0 to 2**63 - 1")
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size_bytes=size_bytes,
        platform=_platform(fields.get("platform"), what),
        foreign=bool(fields.get("urls")) or _FOREIGN.fullmatch(media_type) is not None,
        annotations=_annotations(fields, what),
    )


def _platform(value: object, what: str) -> Platform | None:
    if value is None:
        return None
    fields = _object(value, f"the platform of {what}")
    words = [fields.get(name) or "" for name in ("os", "architecture", "variant")]
    for word in words:
        if not isinstance(word, str) or not _PLATFORM_WORD.fullmatch(word):
            raise ManifestError(f"the platform of {what} is not made of short words")
    return Platform(*cast("list[str]", words))


def _optional_media_type(fields: Mapping[str, object], name: str) -> str | None:
    value = fields.get(name) or None
    if value is None:
        return None
    text = _text(value, f"`{name}`")
    if not _MEDIA_TYPE.fullmatch(text):
        raise ManifestError(f"`{name}` is not a media type: {text[:80]!a}")
    return text


def _annotations(fields: Mapping[str, object], what: str) -> Mapping[str, str]:
    values = _object(fields.get("annotations") or {}, f"`annotations` of {what}")
    return {
        _text(key, f"an annotation's name in {what}"): _text(value, f"an annotation of {what}")
        for key, value in values.items()
    }


def _text(value: object, what: str) -> str:
    """`value` as a string that can be encoded in UTF-8. JSON can escape half a surrogate pair, which cannot."""
    if not isinstance(value, str):
        raise ManifestError(f"{what} is not a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ManifestError(f"{what} is not Unicode text") from None
    return value
