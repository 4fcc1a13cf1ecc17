"""An origin as p2pd sees it: nginx in front of a registry, which keeps a record of every request.

docker-registry's own log has neither the Range that was asked for nor the bytes that were really sent.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tests.real.guards import Guard
from tests.real.programs import Program, environment, listens, wait_until
from tests.real.web import get
from tests.support.ports import free_port

_CONFIG: Final = """
{modules}
daemon off;
master_process off;  # one process: a request is in the log before the next one is answered
pid {directory}/nginx.pid;
error_log {directory}/nginx.log warn;
events {{ worker_connections 512; }}
http {{
    log_format record escape=json '{{"method": "$request_method", "path": "$uri", "status": $status, '
                                  '"bytes_sent": $body_bytes_sent, "range": "$http_range", "user": "$remote_user"}}';
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {address}:{port};
        {locations}
        location = /status {{
            access_log off;
            stub_status;
        }}
    }}
}}
"""

_LOCATION: Final = """
        location {path} {{
            access_log {directory}/requests.log record;
            limit_rate {rate_bytes_s};
            {directives}
            proxy_pass {registry_url};
            proxy_set_header Host $http_host;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffers 8 64k;  # nginx knows limit_rate only where it buffers
            proxy_buffer_size 64k;
            proxy_max_temp_file_size 0;
        }}
"""


@dataclass(frozen=True)
class Request:
    """One request to the origin that has ended. `range` is the header as it was sent, or empty.

    `user` is who the request says to be by HTTP Basic, rightly or not; empty if it does not say.
    """

    method: str
    path: str
    status: int
    bytes_sent: int
    range: str
    user: str


class Origin:
    """nginx at `url` in front of `registry_url`.

    `rate_bytes_s` is how fast each answer is sent, 0 for as fast as it can. `guard` says who may read what.
    """

    def __init__(
        self,
        directory: Path,
        registry_url: str,
        rate_bytes_s: int = 0,
        address: str = "127.0.0.1",
        guard: Guard = Guard(),  # noqa: B008  # it cannot be changed
    ) -> None:
        port = free_port()
        self.url = f"http://{address}:{port}"
        self._record = directory / "requests.log"
        self._forgotten = 0
        config = directory / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                directory=directory,
                address=address,
                port=port,
                modules="".join(f"load_module {module};" for module in guard.modules),
                locations="".join(
                    _LOCATION.format(
                        path=path,
                        directives=directives,
                        directory=directory,
                        registry_url=registry_url,
                        rate_bytes_s=rate_bytes_s,
                    )
                    for path, directives in guard.directives.items()
                ),
            ),
            encoding="utf-8",
        )
        log = directory / "nginx.log"
        self._program = Program(
            [*guard.wrapper, "nginx", "-e", str(log), "-c", str(config)], environment(directory), log
        )
        self._program.wait_ready(lambda: listens(port, address))

    def requests(self) -> list[Request]:
        """Every request since the last `forget()`, once none is in progress any more."""
        wait_until(self._idle, "the origin has no request in progress")
        lines = self._record.read_text(encoding="utf-8").splitlines()[self._forgotten :]
        return [Request(**json.loads(line)) for line in lines]

    def forget(self) -> None:
        """Leave out of `requests()` what was asked until now."""
        self._forgotten += len(self.requests())

    def blob_requests(self) -> list[Request]:
        """The requests for the content of blobs: what p2pd is there to save. HEAD asks for no content."""
        return [request for request in self.requests() if "/blobs/" in request.path and request.method == "GET"]

    def requests_for(self, digest: str) -> list[Request]:
        """The requests for the content of one blob, in the order in which they ended."""
        return [request for request in self.blob_requests() if request.path.endswith("/" + digest)]

    def bytes_sent(self, digest: str) -> int:
        """How many bytes of the blob left the origin, in all answers together."""
        return sum(request.bytes_sent for request in self.requests_for(digest))

    def _idle(self) -> bool:
        """nginx counts a request until it is in the log, and this one that asks for the count."""
        busy = re.search(rb"Reading: (\d+) Writing: (\d+)", get(f"{self.url}/status").body)
        return busy is not None and busy.groups() == (b"0", b"1")

    def stop(self) -> None:
        """End it: from now on connections are refused. Stopping it again does nothing."""
        self._program.terminate()


class StartOrigin(Protocol):
    """Puts nginx in front of `registry_url`, by default the session's open registry."""

    def __call__(self, registry_url: str = ..., *, rate_bytes_s: int = ...) -> Origin: ...
