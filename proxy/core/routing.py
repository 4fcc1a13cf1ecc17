"""Routing: the path, the query and the headers of a request give an endpoint of one upstream.

Rules:
1. The endpoints are those of the OCI distribution specification's category "pull". Push is refused by name.
2. The upstream comes from `ns` (containerd, BuildKit), else from the `OCI-Namespace` header (stargz), else from the
   first path component if that is an upstream's name (podman, CRI-O, crane), else it is the default upstream. It is
   always one of the operator's.
   The exception: if `ns` is Docker Hub, or no upstream, then an upstream's name in the path decides. A client asks so
   if the mirror's URL has a path (`override_path` of containerd). No repository of Docker Hub begins with a host name.
   With `any_host`, every host is an upstream. Within a path, only a component with a dot or a port, or `localhost`, is
   taken for one that is not configured.
3. On Docker Hub, a name of one component is in `library/`, as every docker client understands it.
4. A path is decoded once. An encoded slash, backslash, NUL or per cent sign has no honest use in a name and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import TypeVar
from urllib.parse import unquote

from msgspec import Struct

from peer.errors import InvalidNameError, P2pdError
from peer.oci.digest import AnyDigest
from peer.oci.reference import (
    DOCKER_HUB,
    Repository,
    RepositoryName,
    Tag,
    UpstreamName,
    component_as_host,
    is_host,
    parse_reference,
    parse_repository_name,
    parse_upstream_name,
    with_library,
)
from proxy.core.oci_errors import Code

T = TypeVar("T")

NO_NAME = RepositoryName("")
"""The name in the repository of a ping, which asks the upstream itself."""


class Endpoint(Enum):
    PING = "ping"
    MANIFEST = "manifests"
    BLOB = "blobs"
    TAGS = "tags"
    REFERRERS = "referrers"


class Route(Struct, frozen=True):
    """One request. `prefix` is the path component that named the upstream, with its slash, or empty.

    `renamed`: the client's name for the repository is not the upstream's, so its token may be for another repository.
    """

    endpoint: Endpoint
    repository: Repository
    reference: Tag | AnyDigest = Tag("")
    prefix: str = ""
    renamed: bool = False

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


_USER = re.compile(r"[^\s/@'\"]*:[^\s/@'\"]*@(?!sha\d)")


class RouteError(P2pdError):
    """A mirror does not answer this request. The client gets `status` and `code`.

    A user and a password that stood in the path are left out of the message.
    """

    def __init__(self, status: int, code: Code, message: str) -> None:
        super().__init__(_USER.sub("[redacted]@", message))
        self.status = status
        self.code = code


_DISHONEST = re.compile(r"%(?:2f|5c|00|25)", re.IGNORECASE)
_PATH = re.compile(
    r"/v2/(?P<name>.+)/(?:(?P<endpoint>manifests|blobs|referrers)/(?P<reference>[^/]*)|(?P<tags>tags/list))"
)
_PUSH = re.compile(r"/v2/.+/blobs/uploads(?:/[^/]*)?")


@lru_cache(maxsize=1024)  # a client asks for each blob twice or more; what is refused is not kept
def parse_route(
    method: str,
    path: str,
    ns: str | None,
    ns_header: str | None,
    upstreams: frozenset[UpstreamName],
    default: UpstreamName,
    *,
    any_host: bool = False,
) -> Route:
    """The route of a request. `path` is not decoded and has no query. Raises RouteError."""
    if _DISHONEST.search(path):
        raise RouteError(400, Code.NAME_INVALID, "a name has an encoded slash, backslash, NUL or per cent sign")
    decoded = unquote(path)
    if method not in ("GET", "HEAD") or _PUSH.fullmatch(decoded):
        raise RouteError(405, Code.UNSUPPORTED, "this is a mirror, from which images can only be pulled")
    text = ns or ns_header
    named = _checked(400, Code.NAME_INVALID, parse_upstream_name, text) if text else None
    is_known = named is None or any_host or named in upstreams
    if decoded in ("/v2", "/v2/"):
        if not is_known:
            raise unknown_upstream(named or default)
        return Route(Endpoint.PING, Repository(named or default, NO_NAME))
    match = _PATH.fullmatch(decoded)
    if match is None:
        raise RouteError(404, Code.UNSUPPORTED, "this mirror has /v2/<name>/{manifests,blobs,referrers,tags}/… only")
    upstream, name, prefix = named or default, match["name"], ""
    if named in (None, DOCKER_HUB) or not is_known:
        first, _, rest = name.partition("/")
        found = _host_in_path(first, upstreams, any_host=any_host) if rest else None
        if found is not None:
            upstream, name, prefix = found, rest, f"{first}/"
        elif not is_known:
            raise unknown_upstream(upstream)
        elif named is None and rest and ("." in first or ":" in first):
            # The first component of a repository may have a dot. But it is far more likely an upstream that is not
            # configured, and the default upstream is not to learn which.
            raise unknown_upstream(first)
    full = with_library(upstream, name)
    repository = Repository(upstream, _checked(400, Code.NAME_INVALID, parse_repository_name, full))
    renamed = bool(prefix) or full != name
    if match["tags"]:
        return Route(Endpoint.TAGS, repository, prefix=prefix, renamed=renamed)
    endpoint = Endpoint(match["endpoint"])
    reference: Tag | AnyDigest
    if endpoint is Endpoint.MANIFEST:
        # 404 and not 400: the conformance suite asks for an invalid tag and expects MANIFEST_UNKNOWN.
        reference = _checked(404, Code.MANIFEST_UNKNOWN, parse_reference, match["reference"])
    else:
        reference = _checked(400, Code.DIGEST_INVALID, AnyDigest, match["reference"])
    return Route(endpoint, repository, reference, prefix, renamed)


def _host_in_path(component: str, upstreams: frozenset[UpstreamName], *, any_host: bool) -> UpstreamName | None:
    """The upstream that the first component of a path names: `host`, `host:port` or `host__port`."""
    host = component_as_host(component)
    try:
        upstream = parse_upstream_name(host)
    except InvalidNameError:
        return None
    return upstream if upstream in upstreams or (any_host and is_host(host)) else None


def unknown_upstream(upstream: str) -> RouteError:
    """What is told of an upstream that is none here."""
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
