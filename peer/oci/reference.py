"""The names that come from outside: repositories, tags, upstreams and image references.

Rules:
1. A parsed name is safe in a path and in a URL: it has no `..`, no empty component, no control character, no `%`.
2. Every name has a maximum length. The patterns quantify possessively or up to a small bound, so none of them
   backtracks over a long name: parsing takes time linear in its length.
3. A name of another form raises InvalidNameError. Its text says which form is expected.

The grammars are from the OCI distribution specification ("Pulling manifests"). The rules by which `alpine` becomes
`docker.io/library/alpine:latest` are from distribution/reference (`normalize.go`).

An upstream has one name, and people write it in several ways: `GHCR.io`, `ghcr.io.`, `ghcr.io:443`, `index.docker.io`.
The clients of containers/image (podman, CRI-O, skopeo) cannot write `host:port` within a path, so there it is written
`host__port`. No host name has an underscore, so this spelling means nothing else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NewType

from msgspec import Struct

from peer.errors import InvalidNameError
from peer.oci.digest import AnyDigest, Digest, shown

RepositoryName = NewType("RepositoryName", str)
"""A repository's name within its upstream: `library/alpine`."""

Tag = NewType("Tag", str)
"""A name that a repository gives to one of its manifests: `latest`."""

UpstreamName = NewType("UpstreamName", str)
"""An upstream, by the first part of its images' names: `host` or `host:port` in lower case, such as `docker.io`."""

DOCKER_HUB: Final = UpstreamName("docker.io")
_DOCKER_HUB_NAMES = frozenset({"index.docker.io", "registry-1.docker.io"})
"""Names of Docker Hub beside `docker.io`. containerd treats them as one registry."""

DEFAULT_TAG: Final = Tag("latest")

MAX_REPOSITORY_CHARACTERS: Final = 255
"""The limit of registries and clients; some count the host in (distribution specification)."""

MAX_UPSTREAM_CHARACTERS: Final = 259
"""253 characters of a DNS name (RFC 1035, section 2.3.4), a colon and a port of five digits."""

MAX_IMAGE_CHARACTERS: Final = 1024
"""More than the longest upstream, repository, tag and digest have together."""

_COMPONENT = r"[a-z0-9]++(?:(?:\.|__?|-++)[a-z0-9]++)*+"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*+")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}+")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_MAX_PORT = 65535
_HTTPS_PORT = "443"
_HOST_AND_PORT = re.compile(r"(?P<host>[^_]++)__(?P<port>[0-9]++)")


def parse_repository_name(text: str) -> RepositoryName:
    """Return `text` as a repository's name; raises InvalidNameError."""
    if len(text) > MAX_REPOSITORY_CHARACTERS:
        raise InvalidNameError(
            f"repository {shown(text)} has {len(text)} characters, more than {MAX_REPOSITORY_CHARACTERS}"
        )
    if not _REPOSITORY.fullmatch(text):
        raise InvalidNameError(
            f"repository {shown(text)} is not lower-case letters and digits, with single `.`, `_`, `__`"
            " or dashes between them, in components joined by `/`"
        )
    return RepositoryName(text)


def parse_tag(text: str) -> Tag:
    """Return `text` as a tag; raises InvalidNameError."""
    if not _TAG.fullmatch(text):
        raise InvalidNameError(
            f"tag {shown(text)} is not 1 to 128 letters, digits, `_`, `.` and `-`, beginning with none of `.` and `-`"
        )
    return Tag(text)


def parse_reference(text: str) -> Tag | AnyDigest:
    """Return `text`, the last part of a manifest's path, as a digest if it has a colon, else as a tag.

    Raises InvalidNameError.
    """
    return AnyDigest(text) if ":" in text else parse_tag(text)


@lru_cache(maxsize=1024)  # the mirror asks for each request
def parse_upstream_name(text: str) -> UpstreamName:
    """Return the name of the upstream that is written `text`: `host` or `host:port`, no IPv6 literal.

    The name is in lower case, without the dot at the end of a host and without the port of https. All names of Docker
    Hub are `docker.io`. Raises InvalidNameError.
    """
    if len(text) <= MAX_UPSTREAM_CHARACTERS and text.isascii():
        host, colon, port = text.lower().partition(":")
        host = host.removesuffix(".")
        port_is_valid = bool(_PORT.fullmatch(port)) and int(port) <= _MAX_PORT if colon else True
        if port_is_valid and all(_LABEL.fullmatch(label) for label in host.split(".")):
            name = host if port in ("", _HTTPS_PORT) else f"{host}:{port}"
            return DOCKER_HUB if name in _DOCKER_HUB_NAMES else UpstreamName(name)
    raise InvalidNameError(f"upstream {shown(text)} is not a host name, or host:port, as in `docker.io`")


def is_host(component: str) -> bool:
    """Whether the first component of an image's name is a host, by docker's rule: else it belongs to the repository."""
    return "." in component or ":" in component or component.lower() == "localhost"


def upstream_as_component(upstream: UpstreamName) -> str:
    """`host:port` as a component of a path that every client can write: `host__port`. A host alone stays as it is."""
    return upstream.replace(":", "__")


def component_as_host(component: str) -> str:
    """What a component of a path was before `upstream_as_component`; the component itself if it is not of that form."""
    found = _HOST_AND_PORT.fullmatch(component)
    return f"{found['host']}:{found['port']}" if found else component


def with_library(upstream: UpstreamName, name: str) -> str:
    """The repository `name` in full: on Docker Hub, `alpine` is `library/alpine`."""
    return f"library/{name}" if upstream == DOCKER_HUB and "/" not in name else name


class Repository(Struct, frozen=True):
    """A repository of an upstream. Two upstreams may have repositories of the same name."""

    upstream: UpstreamName
    name: RepositoryName

    def __str__(self) -> str:
        return f"{self.upstream}/{self.name}"


class ImageReference(Struct, frozen=True):
    """An image as a user names it, with a tag, a digest or both. The digest takes precedence."""

    repository: Repository
    tag: Tag | None
    digest: Digest | None

    @property
    def reference(self) -> Tag | Digest:
        """The reference to ask the upstream for."""
        reference = self.digest or self.tag
        assert reference is not None
        return reference

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def parse_image_reference(text: str) -> ImageReference:
    """Parse `text` as docker does: `alpine` is `docker.io/library/alpine:latest`.

    The first component is the upstream if it has a dot or a colon, or is `localhost`. Without a tag and a
    digest, the tag is `latest`. Raises InvalidNameError.
    """
    if len(text) > MAX_IMAGE_CHARACTERS:
        raise InvalidNameError(
            f"image {shown(text)} has {len(text)} characters, and {MAX_IMAGE_CHARACTERS} are allowed"
        )
    name, at, digest_text = text.partition("@")
    first, slash, rest = name.partition("/")
    if slash and is_host(first):
        upstream = parse_upstream_name(first)
    else:
        upstream, rest = DOCKER_HUB, name
    path, colon, tag_text = rest.partition(":")
    path = with_library(upstream, path)
    digest = Digest(digest_text) if at else None
    tag = parse_tag(tag_text) if colon else None
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    return ImageReference(Repository(upstream, parse_repository_name(path)), tag, digest)
