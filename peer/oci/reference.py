"""The names that come from outside: digests, repositories, tags, upstreams and image references.

Rules:
1. What is parsed here is safe in a path and in a URL: it has no `..`, no empty component, no control
   character, no `%`.
2. Every name has a greatest length. The patterns quantify possessively or up to a small bound, so that none
   backtracks over a long name: time is linear in it.
3. What is not of the right form raises InvalidNameError, with a text that says what is expected.

The grammars are those of the OCI distribution specification ("Pulling manifests") and of the OCI image
specification ("Digests"); how `alpine` becomes `docker.io/library/alpine:latest` is from
distribution/reference (`normalize.go`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NewType

from peer.errors import InvalidNameError

Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hexadecimal digits."""

Repository = NewType("Repository", str)
"""A repository's name within its registry: `library/alpine`."""

Tag = NewType("Tag", str)
"""A name that a repository gives to one of its manifests: `latest`."""

UpstreamName = NewType("UpstreamName", str)
"""The registry that an image is named after, `host` or `host:port`, in lower case: `docker.io`."""

DEFAULT_UPSTREAM: Final = UpstreamName("docker.io")
DEFAULT_TAG: Final = Tag("latest")

MAX_REPOSITORY_CHARACTERS: Final = 255
"""The limit of registries and clients; some count the host in (distribution specification)."""

MAX_UPSTREAM_CHARACTERS: Final = 259
"""253 characters of a DNS name (RFC 1035, section 2.3.4), a colon and a port of five digits."""

MAX_IMAGE_CHARACTERS: Final = 1024
"""More than the longest upstream, repository, tag and digest together need."""

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_SHA512 = re.compile(r"sha512:[0-9a-f]{128}")
_COMPONENT = r"[a-z0-9]++(?:(?:\.|__?|-++)[a-z0-9]++)*+"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*+")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}+")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_MAX_PORT = 65535
_SHOWN_CHARACTERS = 80


def _shown(text: str) -> str:
    """`text` for an error: printable, and not longer than a line."""
    return ascii(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


def parse_digest(text: str) -> Digest:
    """Return `text` as a digest; raises InvalidNameError."""
    if _SHA256.fullmatch(text):
        return Digest(text)
    if _SHA512.fullmatch(text):
        raise InvalidNameError(f"digest {_shown(text)} is a sha512, and p2pd supports sha256 only")
    raise InvalidNameError(f"digest {_shown(text)} is not `sha256:` followed by 64 lower-case hexadecimal digits")


def parse_repository(text: str) -> Repository:
    """Return `text` as a repository's name; raises InvalidNameError."""
    if len(text) > MAX_REPOSITORY_CHARACTERS:
        raise InvalidNameError(
            f"repository {_shown(text)} has {len(text)} characters, more than {MAX_REPOSITORY_CHARACTERS}"
        )
    if not _REPOSITORY.fullmatch(text):
        raise InvalidNameError(
            f"repository {_shown(text)} is not lower-case letters and digits, with single `.`, `_`, `__`"
            " or dashes between them, in components joined by `/`"
        )
    return Repository(text)


def parse_tag(text: str) -> Tag:
    """Return `text` as a tag; raises InvalidNameError."""
    if not _TAG.fullmatch(text):
        raise InvalidNameError(
            f"tag {_shown(text)} is not 1 to 128 letters, digits, `_`, `.` and `-`, beginning with none of `.` and `-`"
        )
    return Tag(text)


def is_digest(reference: Tag | Digest) -> bool:
    """Whether a parsed reference is a digest: no tag has a colon."""
    return ":" in reference


def parse_reference(text: str) -> Tag | Digest:
    """Return `text`, the last part of a manifest's path, as a digest if it has a colon, else as a tag.

    Raises InvalidNameError.
    """
    return parse_digest(text) if ":" in text else parse_tag(text)


def parse_upstream_name(text: str) -> UpstreamName:
    """Return `text` (`host` or `host:port`, no IPv6 literal) in lower case; raises InvalidNameError."""
    if len(text) <= MAX_UPSTREAM_CHARACTERS and text.isascii():
        host, colon, port = text.lower().partition(":")
        port_is_valid = bool(_PORT.fullmatch(port)) and int(port) <= _MAX_PORT if colon else True
        if port_is_valid and all(_LABEL.fullmatch(label) for label in host.split(".")):
            return UpstreamName(text.lower())
    raise InvalidNameError(f"upstream {_shown(text)} is not a registry's host name, or host:port, as in `docker.io`")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image as a user names it, with a tag, a digest or both; where both are there, the digest decides."""

    upstream: UpstreamName
    repository: Repository
    tag: Tag | None
    digest: Digest | None

    @property
    def reference(self) -> Tag | Digest:
        """What to ask the registry for."""
        reference = self.digest or self.tag
        assert reference is not None
        return reference

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.upstream}/{self.repository}{tag}{digest}"


def parse_image_reference(text: str) -> ImageReference:
    """Understand `text` as docker does: `alpine` is `docker.io/library/alpine:latest`.

    The first component is the upstream if it has a dot or a colon, or is `localhost`. Without a tag and a
    digest, the tag is `latest`. Raises InvalidNameError.
    """
    if len(text) > MAX_IMAGE_CHARACTERS:
        raise InvalidNameError(
            f"image {_shown(text)} has {len(text)} characters, and {MAX_IMAGE_CHARACTERS} are allowed"
        )
    name, at, digest_text = text.partition("@")
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        upstream = parse_upstream_name(first)
    else:
        upstream, rest = DEFAULT_UPSTREAM, name
    path, colon, tag_text = rest.partition(":")
    if upstream == "index.docker.io":
        upstream = DEFAULT_UPSTREAM
    if upstream == DEFAULT_UPSTREAM and "/" not in path:
        path = f"library/{path}"
    digest = parse_digest(digest_text) if at else None
    tag = parse_tag(tag_text) if colon else None
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    return ImageReference(upstream, parse_repository(path), tag, digest)
