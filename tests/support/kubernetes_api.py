"""As much of Kubernetes' API as the chart asks: objects that are read, removed, and patched by merging, over TLS."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.authority import make_authority


class KubernetesApi:
    """It serves `objects` by their paths to whoever has `token`. `account` is the mount of a service account."""

    def __init__(self, account: Path) -> None:
        self.account, self.token = account, "account"
        self.read_only = False
        self.objects: dict[str, dict[str, Any]] = {}
        self.patches: list[tuple[str, str | None]] = []
        account.mkdir()
        (account / "token").write_text(f"{self.token}\n")
        authority = make_authority(account)
        authority.ca_file.rename(account / "ca.crt")
        self._server = _Server(self)
        self._server.socket = authority.server.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def environ(self) -> dict[str, str]:
        """What Kubernetes tells every container."""
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    def __enter__(self) -> KubernetesApi:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def __init__(self, api: KubernetesApi) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._answer(None)

    def do_PATCH(self) -> None:
        self.server.api.patches.append((self.path, self.headers["Content-Type"]))
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_DELETE(self) -> None:
        self._answer(None)
        self.server.api.objects.pop(self.path, None)

    def _answer(self, patch: dict[str, Any] | None) -> None:
        api = self.server.api
        known = api.objects.get(self.path)
        allowed = self.headers["Authorization"] == f"Bearer {api.token}" and not (api.read_only and patch)
        self.send_response(403 if not allowed else 404 if known is None else 200)
        self.end_headers()
        if allowed and known is not None:
            known |= patch or {}
            self.wfile.write(json.dumps(known).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as in the base class
        pass
