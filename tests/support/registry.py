"""A registry with images in it: the scriptable one of the origin's tests, that knows manifests, tags and who may pull.

`rules` go before what it has, by path. `hold` keeps a body back after so many bytes until the test lets it go on.
"""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from peer.oci.digest import Digest
from tests.support.images import Image, Index, digest_of, make_index
from tests.support.ports import bound
from tests.support.registry_server import PATIENCE_S, Answering, RegistryServer, Rule, Seen

ANONYMOUS = "Bearer anonymous"
"""What the token server gives to those that it does not know: good for public repositories."""


@dataclass
class Hold:
    """A body stops before the blob's byte `at`; `reached` is set when it has, and it goes on after `go`."""

    at: int
    reached: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class _Held(Answering):
    hold: Hold | None = None


class ImageRegistry(RegistryServer):
    """Use it as a context manager. Header names in `seen` are lower case."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.rules: dict[str, Answering | Rule] = {}
        self.members: dict[str, set[str]] = {}
        """Private repositories, and the `Authorization` of those who may pull from them."""
        self.wants_token = False
        """Whether a public repository asks for a token too, as Docker Hub does."""
        self.tokens: dict[str | None, str] = {None: ANONYMOUS}
        """What the token server gives, by the `Authorization` that it is shown."""
        self.sent: Counter[str] = Counter()
        """Bytes of bodies sent, by path."""
        self._manifests: dict[str, tuple[bytes, str]] = {}
        self._holds: dict[str, Hold] = {}
        self._held: list[Hold] = []
        self.rule = self._answer

    # -- what it has -----------------------------------------------------------------------------------------------

    def push(self, repository: str, tag: str, image: Image | Index) -> Digest:
        """All of an image, or of an index; returns the digest of its manifest."""
        if isinstance(image, Index):
            for child in image.children:
                self.push(repository, child.digest, child)
        else:
            for blob in image.blobs:
                self.put_blob(repository, blob)
        return self.put_manifest(repository, tag, image.manifest, image.media_type)

    def push_index(self, repository: str, tag: str, *images: Image) -> Digest:
        return self.push(repository, tag, make_index(*images))

    def put_manifest(self, repository: str, tag: str, content: bytes, media_type: str) -> Digest:
        for reference in (tag, digest_of(content)):
            self._manifests[f"/v2/{repository}/manifests/{reference}"] = (content, media_type)
        return digest_of(content)

    def put_blob(self, repository: str, content: bytes) -> Digest:
        self.add_blob(repository, digest_of(content), content)
        return digest_of(content)

    def hold(self, repository: str, digest: str, at: int) -> Hold:
        """Hold the next body that has byte `at` of this blob, whichever part of it that body is."""
        hold = self._holds[f"/v2/{repository}/blobs/{digest}"] = Hold(at)
        return hold

    def stop(self) -> None:
        """The registry is gone: connections to it are refused from now on."""
        self.__exit__()
        self._listener = bound(self.host, self.port)

    def __exit__(self, *exc_info: object) -> None:
        for hold in self._held:
            hold.go.set()
        super().__exit__(*exc_info)

    # -- what was asked --------------------------------------------------------------------------------------------

    def asked(self, method: str, ending: str) -> int:
        """How many requests there were for paths with this ending."""
        return sum(seen.method == method and seen.path.endswith(ending) for seen in tuple(self.seen))

    def ranges(self, ending: str) -> list[str | None]:
        """The `Range` of each request for a path with this ending."""
        return [seen.headers.get("range") for seen in tuple(self.seen) if seen.path.endswith(ending)]

    def challenge(self, repository: str) -> str:
        return f'Bearer realm="{self.url}/token",service="registry.test",scope="repository:{repository}:pull"'

    # -- answers ---------------------------------------------------------------------------------------------------

    def _answer(self, seen: Seen) -> Answering:
        rule = self.rules.get(seen.path)
        chosen = rule if isinstance(rule, Answering) else rule(seen) if rule else None
        if chosen is not None:
            return chosen
        if seen.path == "/token":
            token = self.tokens.get(seen.headers.get("authorization"))
            return Answering(
                200 if token else 401, json.dumps({"token": (token or "").removeprefix("Bearer ")}).encode()
            )
        if seen.path == "/v2/":
            return Answering(200, b"{}")
        repository = seen.path.removeprefix("/v2/").rsplit("/", 2)[0]
        if not self._may(repository, seen.headers.get("authorization")):
            return _error(401, "UNAUTHORIZED", {"WWW-Authenticate": self.challenge(repository)})
        found = self._manifests.get(seen.path)
        if found is not None:
            content, media_type = found
            return Answering(200, content, {"Content-Type": media_type, "Docker-Content-Digest": digest_of(content)})
        if "/manifests/" in seen.path:
            return _error(404, "MANIFEST_UNKNOWN")
        if seen.path not in self.blobs:
            return _error(404, "BLOB_UNKNOWN")
        answering = self.blob(seen)
        start = int(re.split("[=-]", seen.headers.get("range", "bytes=0-"))[1])
        hold = self._holds.get(seen.path)
        if hold is None or seen.method != "GET" or not start <= hold.at < start + len(answering.body):
            return answering
        del self._holds[seen.path]
        self._held.append(hold)
        held = _Held(answering.status, answering.body, answering.headers, hold=hold)
        return dataclasses.replace(held, sent_bytes=hold.at - start)

    def _may(self, repository: str, authorization: str | None) -> bool:
        if repository in self.members:
            return authorization in self.members[repository]
        return authorization == ANONYMOUS or not self.wants_token

    def _send(self, connection: socket.socket, seen: Seen, answering: Answering) -> bool:
        hold = answering.hold if isinstance(answering, _Held) else None
        if seen.method == "GET":
            self.sent[seen.path] += len(answering.body if hold else answering.body[: answering.sent_bytes])
        if hold is None:
            return super()._send(connection, seen, answering)
        super()._send(connection, seen, answering)
        hold.reached.set()
        hold.go.wait(PATIENCE_S)
        connection.sendall(answering.body[answering.sent_bytes :])
        return True


def _error(status: int, code: str, headers: Mapping[str, str] | None = None) -> Answering:
    body = json.dumps({"errors": [{"code": code, "message": "the registry says so"}]}).encode()
    return Answering(status, body, {"Content-Type": "application/json", **(headers or {})})
