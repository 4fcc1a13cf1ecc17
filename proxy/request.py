"""One request to the mirror: its route, the state of its answer, and the headers that every answer has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

from peer.oci.descriptor import OCTET_STREAM, Descriptor
from proxy.blob_response import Sent
from proxy.core.routing import Route
from proxy.server import API_VERSION


@dataclass(slots=True)
class RequestContext:
    """A request while the mirror answers it. `cache` says whether the store had the content."""

    request: web.BaseRequest
    route: Route
    authorization: str | None
    cache: Literal["hit", "miss", "none"] = "none"
    sent: Sent = field(default_factory=Sent)

    @property
    def head(self) -> bool:
        return self.request.method == "HEAD"

    @property
    def user_agent(self) -> str:
        return self.request.headers.get("User-Agent", "")[:200]

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

    def head_response(self, content: Descriptor) -> web.Response:
        """The answer to HEAD of `content`."""
        return web.Response(headers={**self.content_headers(content), "Content-Length": str(content.size_bytes)})
