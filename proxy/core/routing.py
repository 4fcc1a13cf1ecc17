"""Routing: the path, the query and the headers of a request give an endpoint of one upstream.

Rules:
1. The endpoints are those of the OCI distribution specification's category "pull". Push is refused by name.
2. The upstream comes from `ns` (containerd, BuildKit), else from the `OCI-Namespace` header (stargz), else from the
   first path component if that is an upstream's name (podman, CRI-O, crane), else it is the default upstream. It is
   always one of the operator's.
3. A path is decoded once. An encoded slash, backslash, NUL or per cent sign has no honest use in a name and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar
from urllib.parse import unquote

from peer.errors import InvalidNameError, P2pdError
from peer.oci.digest import AnyDigest
from peer.oci.reference import (
    Repository,
    RepositoryName,
    Tag,
    UpstreamName,
    parse_reference,
    parse_repository_name,
    parse_upstream_name,
)
from proxy.core.oci_errors import Code

T = TypeVar("T")

DOCKER_HUB = UpstreamName("docker.io")
DOCKER_HUB_NAMES = frozenset({"index.docker.io", "registry-1.docker.io"})
"""Names of Docker Hub beside `docker.io`. containerd treats them as one registry."""


NO_NAME = RepositoryName("")
"""The name in the repository of a ping, which asks the upstream itself."""


class Endpoint(Enum):
    PING = "ping"
    MANIFEST = "manifests"
    BLOB = "blobs"
    TAGS = "tags"
    REFERRERS = "referrers"


@dataclass(frozen=True, slots=True)
class Route:
    """One request. `prefix` is the path component that named the upstream, with its slash, or empty."""

    endpoint: Endpoint
    repository: Repository
    reference: Tag | AnyDigest = Tag("")
    prefix: str = ""

    @property
    def upstream(self) -> UpstreamName:
        return self.repository.upstream

    @property
    def digest(self) -> AnyDigest:
        """The reference of a request by digest. Every request for a blob is one."""
        assert isinstance(self.reference, AnyDigest)
        return self.reference

    @property
    def origin_path(self) -> str:
        """The path below `/v2/` at the origin."""
        match self.endpoint:
            case Endpoint.PING:
                return ""
            case Endpoint.TAGS:
                return f"{self.repository.name}/tags/list"
            case _:
                return f"{self.repository.name}/{self.endpoint.value}/{self.reference}"


class RouteError(P2pdError):
    """A mirror does not answer this request. The client gets `status` and `code`."""

    def __init__(self, status: int, code: Code, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


_DISHONEST = re.compile(r"%(?:2f|5c|00|25)", re.IGNORECASE)
_PATH = re.compile(
    r"/v2/(?P<name>.+)/(?:(?P<endpoint>manifests|blobs|referrers)/(?P<reference>[^/]*)|(?P<tags>tags/list))"
)
_PUSH = re.compile(r"/v2/.+/blobs/uploads(?:/[^/]*)?")


def parse_route(
    method: str,
    path: str,
    ns: str | None,
    ns_header: str | None,
    upstreams: Collection[UpstreamName],
    default: UpstreamName,
) -> Route:
    """The route of a request. `path` is not decoded and has no query. Raises RouteError."""
    if _DISHONEST.search(path):
        raise RouteError(400, Code.NAME_INVALID, "a name has an encoded slash, backslash, NUL or per cent sign")
    decoded = unquote(path)
    if method not in ("GET", "HEAD") or _PUSH.fullmatch(decoded):
        raise RouteError(405, Code.UNSUPPORTED, "this is a mirror, from which images can only be pulled")
    named = _named_upstream(ns or ns_header, upstreams)
    if decoded in ("/v2", "/v2/"):
        return Route(Endpoint.PING, Repository(named or default, NO_NAME))
    match = _PATH.fullmatch(decoded)
    if match is None:
        raise RouteError(404, Code.UNSUPPORTED, "this mirror has /v2/<name>/{manifests,blobs,referrers,tags}/… only")
    upstream, name, prefix = named or default, match["name"], ""
    if named is None:
        upstream, name, prefix = _split_prefix(name, upstreams, default)
    repository = Repository(upstream, _checked(400, Code.NAME_INVALID, parse_repository_name, name))
    if match["tags"]:
        return Route(Endpoint.TAGS, repository, prefix=prefix)
    endpoint = Endpoint(match["endpoint"])
    reference: Tag | AnyDigest
    if endpoint is Endpoint.MANIFEST:
        # 404 and not 400: the conformance suite asks for an invalid tag and expects MANIFEST_UNKNOWN.
        reference = _checked(404, Code.MANIFEST_UNKNOWN, parse_reference, match["reference"])
    else:
        reference = _checked(400, Code.DIGEST_INVALID, AnyDigest, match["reference"])
    return Route(endpoint, repository, reference, prefix)


def _named_upstream(text: str | None, upstreams: Collection[UpstreamName]) -> UpstreamName | None:
    if not text:
        return None
    upstream = _checked(400, Code.NAME_INVALID, parse_upstream_name, text)
    if upstream in DOCKER_HUB_NAMES:
        upstream = DOCKER_HUB
    if upstream not in upstreams:
        raise _unknown(upstream)
    return upstream


def _split_prefix(
    name: str, upstreams: Collection[UpstreamName], default: UpstreamName
) -> tuple[UpstreamName, str, str]:
    first, slash, rest = name.partition("/")
    if not slash:
        return default, name, ""
    host = DOCKER_HUB if first in DOCKER_HUB_NAMES else first
    if host in upstreams:
        return UpstreamName(host), rest, f"{first}/"
    if "." in first or ":" in first:
        # The first component of a repository may have a dot. But it is far more likely an upstream that is not
        # configured, and the default upstream is not to learn which.
        raise _unknown(first)
    return default, name, ""


def _unknown(upstream: str) -> RouteError:
    return RouteError(
        404,
        Code.NAME_UNKNOWN,
        f"{upstream[:80]!a} is not one of this mirror's upstreams; it could be added with --upstream",
    )


def _checked(status: int, code: Code, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except InvalidNameError as error:
        raise RouteError(status, code, str(error)) from None
