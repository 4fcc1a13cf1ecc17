"""A token server, as the distribution project's token authentication has it: JWTs signed by RS256.

It gives a token to everybody, but a user's token lets the user pull from the user's repository only, and everybody
else's token grants nothing. Each token brings the certificate that docker-registry trusts (`x5c`).
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from tests.real.packages import PATH
from tests.real.web import Credentials

_LIFETIME_S: Final = 3600


class TokenServer:
    """Serves tokens at `realm` from a thread until `stop()`."""

    service: Final = "tests-registry"
    issuer: Final = "tests-issuer"

    def __init__(self, directory: Path, readers: Mapping[Credentials, str]) -> None:
        """Each of `readers` may pull from the repository beside it."""
        self._key = directory / "token-key.pem"
        self.certificate = directory / "token-certificate.pem"
        request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests"]
        _openssl(*request, "-keyout", str(self._key), "-out", str(self.certificate))
        self._x5c = "".join(self.certificate.read_text(encoding="ascii").splitlines()[1:-1])
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, readers))
        self.realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def token(self, scopes: list[str], repository: str | None) -> str:
        """A token for `scopes` (`repository:library/app:pull`); it grants what of them is for `repository`."""
        now = int(time.time())
        granted = [{"type": "repository", "name": repository, "actions": ["pull"]}]
        header = {"typ": "JWT", "alg": "RS256", "x5c": [self._x5c]}
        claims = {
            "iss": self.issuer,
            "sub": "tests",
            "aud": self.service,
            "iat": now,
            "nbf": now - 10,
            "exp": now + _LIFETIME_S,
            "jti": f"{time.monotonic_ns()}",
            "access": granted if f"repository:{repository}:pull" in scopes else [],
        }
        signed = f"{_base64url(json.dumps(header).encode())}.{_base64url(json.dumps(claims).encode())}"
        signature = _openssl("dgst", "-sha256", "-sign", str(self._key), stdin=signed.encode())
        return f"{signed}.{_base64url(signature)}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(tokens: TokenServer, readers: Mapping[Credentials, str]) -> type[BaseHTTPRequestHandler]:
    repositories = {f"Basic {user.basic}": repository for user, repository in readers.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            authorization = self.headers.get("Authorization")
            if authorization is not None and authorization not in repositories:
                self.send_error(401)
                return
            scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
            names = [name for scope in scopes for name in scope.split()]
            token = tokens.token(names, repositories.get(authorization or ""))
            body = json.dumps({"token": token, "expires_in": _LIFETIME_S}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            """The OAuth form of the flow, which clients try first and give up on 404 or 405."""
            self.send_error(405)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    return Handler


def _openssl(*args: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *args], env={"PATH": PATH}, input=stdin, capture_output=True, check=True).stdout


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
