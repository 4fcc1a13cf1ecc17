"""The response to a request whose content is there, and short: headers and body in one write.

Most requests of a pull are for manifests, configs and small layers. aiohttp's own response copies its headers into a
multidict and looks through that for each header that it may have to add, remove or change: 40 calls for each request.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE


class WholeResponse(web.StreamResponse):
    """A response with all of its `body`. `fields` are its headers, but for those of every response.

    The response to HEAD has no body, and the length in its `fields`.
    """

    def __init__(self, fields: Mapping[str, str], body: bytes = b"", status: int = HTTPStatus.OK) -> None:
        super().__init__(status=status)
        self._fields = fields
        self._content = body

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Make the headers, which go out with the body."""
        version = request.version
        headers = {hdrs.DATE: rfc822_formatted_time(), hdrs.SERVER: SERVER_SOFTWARE, **self._fields}
        if self.status != HTTPStatus.NOT_MODIFIED:
            headers.setdefault(hdrs.CONTENT_LENGTH, str(len(self._content)))
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        if self._keep_alive != (version == HttpVersion11):  # each version has its own default
            headers[hdrs.CONNECTION] = "keep-alive" if self._keep_alive else "close"
        self._payload_writer = request.writer
        await request.writer.write_headers(
            f"HTTP/{version.major}.{version.minor} {self.status} {self.reason}",
            headers,  # type: ignore[arg-type] # its names and values are all that is asked for
        )
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Send all of it. `data` is for responses that are streamed."""
        assert not data
        assert self._payload_writer is not None, "it is prepared"
        await self._payload_writer.write_eof(self._content)
