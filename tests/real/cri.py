"""containerd's Kubernetes part (CRI), asked to pull as a kubelet does it.

Debian has no `crictl`. A call of gRPC is a POST of HTTP/2, which curl speaks: a message of protobuf behind its length,
and the outcome in a trailer (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.real.programs import ProgramError
from tests.real.web import Credentials
from tests.support.registry_server import PATIENCE_S

_SERVICE: Final = "http://localhost/runtime.v1.ImageService"


class Cri:
    """The image service at `socket`. The numbers are those of the fields in Kubernetes' `api.proto`."""

    def __init__(self, socket: Path, env: Mapping[str, str]) -> None:
        self._socket = socket
        self._env = env

    def pull(self, image: str, credentials: Credentials | None = None) -> None:
        """Pull with the secret of a pod, as the kubelet gives it to the runtime: without a registry's name.

        Raises ProgramError.
        """
        auth = b"" if credentials is None else _field(1, credentials.username) + _field(2, credentials.password)
        self._call("PullImage", _field(1, _field(1, image)) + (_field(2, auth) if auth else b""))

    def remove(self, image: str) -> None:
        self._call("RemoveImage", _field(1, _field(1, image)))

    def _call(self, method: str, message: bytes) -> None:
        curl = ["curl", "--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket", str(self._socket)]
        headers = ["--header", "Content-Type: application/grpc", "--header", "TE: trailers"]
        output = ["--dump-header", "-", "--output", "/dev/null"]
        done = subprocess.run(
            [*curl, *headers, *output, "--data-binary", "@-", f"{_SERVICE}/{method}"],
            env=self._env,
            input=b"\0" + len(message).to_bytes(4, "big") + message,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
        if done.returncode != 0 or re.search(r"^grpc-status: 0\r?$", said, re.MULTILINE) is None:
            raise ProgramError(f"{method}: curl ended with {done.returncode}\n{said}")


def _field(number: int, value: str | bytes) -> bytes:
    """A field of protobuf that has a length: a string, or a message."""
    content = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
