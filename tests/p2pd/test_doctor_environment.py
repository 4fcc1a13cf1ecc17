"""What the doctor really sees, of servers on loopback and of a disk; and the command, as an operator runs it."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from p2pd.cli.app import app
from p2pd.config.values import Address
from p2pd.doctor.environment import (
    HttpReply,
    UnreachableError,
    ask_socket,
    connect,
    explain,
    get,
    get_upstream,
    owner,
    real,
    space,
)
from tests.support.registry_server import PATIENCE_S


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = {"/v2/": 401, "/gone": 404}.get(self.path, 200)
        self.send_response(status)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is its own."""

    def address_string(self) -> str:
        return "a test"


@pytest.fixture
def serve() -> Iterator[Callable[[socketserver.BaseServer], None]]:
    """Runs servers until the test ends."""
    running: list[tuple[socketserver.BaseServer, threading.Thread]] = []

    def start(server: socketserver.BaseServer) -> None:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join(timeout=PATIENCE_S)
        server.server_close()


Serve = Callable[[socketserver.BaseServer], None]


@pytest.fixture
def http(serve: Serve) -> HTTPServer:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    serve(server)
    return server


def test_answers_and_refusals_are_replies(http: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    url = f"http://127.0.0.1:{http.server_port}"
    replies = [get(f"{url}/"), get(f"{url}/v2/")]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    replies.append(get_upstream(f"{url}/gone", None))
    assert [(reply.status, reply.body) for reply in replies] == [(status, b"hello") for status in (200, 401, 404)]
    assert all(reply.date_s is not None and reply.date_s > 1.7e9 for reply in replies)
    connect(Address("127.0.0.1", http.server_port))


def test_nobody_there_is_told() -> None:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_port
    with pytest.raises(UnreachableError, match="connection refused"):
        get(f"http://127.0.0.1:{port}/")
    with pytest.raises(UnreachableError, match="connection refused"):
        connect(Address("127.0.0.1", port))


def test_tls_where_there_is_none_is_told(http: HTTPServer) -> None:
    with pytest.raises(UnreachableError, match="does not speak TLS"):
        get_upstream(f"https://127.0.0.1:{http.server_port}/v2/", None)


def test_a_unix_socket_is_asked(tmp_path: Path, serve: Serve) -> None:
    path = str(tmp_path / "docker.sock")
    serve(socketserver.UnixStreamServer(path, Handler))
    assert ask_socket(path, "/info") == HttpReply(200, b"hello")
    assert real(tmp_path).ask_socket("/docker.sock", "/info") == HttpReply(200, b"hello")
    with pytest.raises(UnreachableError, match="no such socket"):
        ask_socket(str(tmp_path / "other.sock"), "/info")


def test_a_ca_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("")
    for path in (empty, tmp_path / "missing.pem"):
        with pytest.raises(UnreachableError, match=r"its ca file .* cannot be used"):
            get_upstream("https://127.0.0.1:1/v2/", path)


def certificate_error(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "the reason of OpenSSL"
    return error


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (certificate_error(10), "has expired"),
        (certificate_error(20), ";ca=FILE"),
        (certificate_error(62), "another name"),
        (certificate_error(99), "the reason of OpenSSL"),
        (TimeoutError("timed out"), "no answer in time"),
        (PermissionError(13, "Permission denied"), "as root"),
        (OSError(113, "No route to host"), "No route to host"),
        ("unknown url type", "unknown url type"),
    ],
)
def test_reasons_are_in_the_operators_words(reason: object, text: str) -> None:
    assert text in explain(reason)


def test_space_and_owner_of_a_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    found = owner(tmp_path)
    assert found is not None
    assert found.mode == 0o750
    assert owner(tmp_path / "missing") is None
    there, below = space(tmp_path), space(tmp_path / "not/yet/there")
    assert there is not None
    assert below is not None
    assert below.total_bytes == there.total_bytes >= there.free_bytes


def test_a_relative_path_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path)
    found = real(Path("/")).owner(Path("data"))
    assert found is not None
    assert found.mode == 0o700


# the command


def run(root: Path, *arguments: str) -> tuple[int, Mapping[str, object], str]:
    """Nothing listens at port 1 of loopback, and the upstream is a directory."""
    (root / "images").mkdir()
    (root / "images/oci-layout").write_text("{}")
    flags = ["--mirror", "127.0.0.1:1", "--admin", "127.0.0.1:1", "--upstream", "docker.io=oci-layout:///images"]
    result = CliRunner(env={"P2PD_CONFIG": ""}).invoke(app, ["doctor", "--root", str(root), *flags, *arguments])
    return result.exit_code, json.loads(result.stdout) if "--json" in arguments else {}, result.output


def test_the_command_exits_with_1_if_something_fails(tmp_path: Path) -> None:
    code, report, _ = run(tmp_path, "--json")
    assert code == 1
    assert report["ok"] is False
    rows = report["findings"]
    assert isinstance(rows, list)
    assert {"level": "ok", "check": "upstream docker.io", "title": "/images is an OCI layout", "advice": ""} in rows


def test_the_command_is_readable_by_people(tmp_path: Path) -> None:
    code, _, output = run(tmp_path)
    assert code == 1
    assert "fail  the mirror at 127.0.0.1:1 does not answer: connection refused" in output
    assert "ok    /images is an OCI layout" in output
    assert "\x1b" not in output
