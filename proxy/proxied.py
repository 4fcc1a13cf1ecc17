"""What a client gets that has connected to an upstream by the HTTPS proxy: from the mirror, or from the registry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from aiohttp import web

from proxy.core.oci_errors import Code, refusal
from proxy.host_guard import MISDIRECTED
from proxy.https_proxy import target_of
from proxy.mirror import Mirror, Straight
from proxy.pass_on import PassOn
from proxy.server import as_response


@dataclass(frozen=True, slots=True)
class Proxied:
    mirror: Mirror
    pass_on: PassOn

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; the handler of `HttpsProxy`."""
        target = target_of(request)
        upstream = target.upstream
        assert upstream is not None, "the proxy stands for upstreams alone"
        if not all(target.is_named_by(host) for host in request.headers.getall("Host", ())):
            reason = f"the Host header names another host than CONNECT did, which is {target}"
            return as_response(refusal(MISDIRECTED, Code.DENIED, reason))
        straight = Straight(upstream, partial(self.pass_on.answer, request, upstream, target))
        return await self.mirror.handle(request, straight)
