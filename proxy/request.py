"""One request to the mirror: its route, the state of its answer, and the headers that every answer has."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal

from aiohttp import web

from peer.oci.descriptor import OCTET_STREAM, Descriptor
from peer.oci.digest import AnyDigest
from proxy.blob_response import Sent
from proxy.core.conditional import not_modified
from proxy.core.reasons import Relayed
from proxy.core.routing import Route
from proxy.server import API_VERSION
from proxy.whole_response import WholeResponse


@dataclass(slots=True)
class RequestContext:
    """A request while the mirror answers it. `cache` says whether the store had the content.

    `relayed`: why the answer came from the origin, past the store. `is_straight`: the client has connected to the
    upstream itself (`proxy.mirror.Straight`).
    """

    request: web.BaseRequest
    route: Route
    authorization: str | None
    cache: Literal["hit", "miss", "none"] = "none"
    relayed: Relayed | None = None
    is_straight: bool = False
    sent: Sent = field(default_factory=Sent)

    @property
    def head(self) -> bool:
        return self.request.method == "HEAD"

    @property
    def user_agent(self) -> str:
        return self.request.headers.get("User-Agent", "")[:200]

    def not_modified(self, digest: AnyDigest) -> bool:
        """Whether the client has the content already, and asks only whether that is so."""
        return not_modified(self.request.headers.get("If-None-Match"), digest)

    def headers(self) -> dict[str, str]:
        """The headers of every answer."""
        named = self.request.query.get("ns") or self.request.headers.get("OCI-Namespace")
        return {**API_VERSION, "OCI-Namespace": self.route.repository.upstream} if named else dict(API_VERSION)

    def content_headers(self, content: Descriptor) -> dict[str, str]:
        """The headers of an answer with `content`. Its length is left out: that depends on the range."""
        return {
            **self.headers(),
            "Content-Type": content.media_type or OCTET_STREAM,
            "Docker-Content-Digest": content.digest,
            "ETag": f'"{content.digest}"',
            "Accept-Ranges": "bytes",
        }

    def head_response(self, content: Descriptor) -> WholeResponse:
        """The answer without a body: to HEAD of `content`, or 304 to a client that has it."""
        headers = self.content_headers(content)
        if self.not_modified(content.digest):
            return WholeResponse(headers, status=HTTPStatus.NOT_MODIFIED)
        headers["Content-Length"] = str(content.size_bytes)
        return WholeResponse(headers)
