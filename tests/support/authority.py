"""A CA of our own, for registries with TLS."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Authority:
    """A CA of our own, and a server's context with a certificate of its for 127.0.0.1 and registry.test."""

    ca_file: Path
    server: ssl.SSLContext


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def make_authority(directory: Path) -> Authority:
    """A CA whose files are in `directory`."""
    openssl(directory, "req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=a CA", "-days", "2")
    openssl(directory, "req", *KEY, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=a server")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:registry.test")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl(directory, "x509", "-req", "-in", "server.csr", "-out", "server.pem", *signing)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    return Authority(directory / "ca.pem", context)
