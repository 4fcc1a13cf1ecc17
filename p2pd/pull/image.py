"""The pull of an image through the mirror, as a container runtime does it, with a verdict on every digest.

Operators try it first (`p2pd pull alpine`), fill a cache with it, and write image layouts for sites without a registry.

Rules:
1. A blob is good only if its bytes were hashed and have the digest that the manifest names.
2. Three blobs are fetched at a time, as by dockerd and containerd. Each of them takes one buffer of memory.
3. The origin's client resumes a body that ends early, with Range, at the first missing byte.
4. A blob that fails does not stop the other blobs. The image gets its name in the layout only if all blobs are good.
"""

from __future__ import annotations

import http.client
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from p2pd.pull.layout_writer import CONTAINERD_NAME, REF_NAME, BlobFile, LayoutWriter
from p2pd.pull.mirror import PullError, mirror_of, refusal
from p2pd.pull.platforms import choose_platform
from peer.errors import ManifestError, OriginRefusedError, P2pdError
from peer.oci.descriptor import Descriptor, Platform
from peer.oci.digest import AnyDigest, Digest
from peer.oci.manifest import KIND_BY_MEDIA_TYPE, Manifest, ManifestKind, parse_manifest
from peer.oci.reference import DOCKER_HUB, ImageReference, Tag
from peer.origin.api import ContentRef, Credential
from peer.origin.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pd.config.values import Address
    from p2pd.pull.docker_config import Login
    from peer.origin.api import Origin

PARALLEL_BLOBS: Final = 3
"""`max-concurrent-downloads` of dockerd, and of containerd's CRI plugin, by default."""

MAX_INDEX_DEPTH: Final = 4
"""Levels of indexes within indexes; real images have one level."""

_BUFFER_BYTES = 1024 * 1024
_OURS = Credential(own=True)


class PullProgress(Protocol):
    """The receiver of a pull's progress. Several threads call it."""

    def on_layer(self, digest: str, size_bytes: int, media_type: str) -> None:
        """A config or layer is about to be fetched."""
        ...

    def on_bytes(self, digest: str, count: int) -> None:
        """`count` more bytes of the blob came."""
        ...

    def on_verdict(self, digest: str, ok: bool, seconds: float) -> None:
        """The blob is good, or it is wrong or missing."""
        ...


class NoProgress:
    """A progress that goes nowhere."""

    def on_layer(self, digest: str, size_bytes: int, media_type: str) -> None: ...

    def on_bytes(self, digest: str, count: int) -> None: ...

    def on_verdict(self, digest: str, ok: bool, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class PullRequest:
    """An image, a mirror, a user and a destination.

    `destination` is a layout's directory; None keeps nothing. `platform` None pulls all of an index's platforms.
    """

    image: ImageReference
    mirror: Address
    destination: Path | None = None
    platform: Platform | None = None
    login: Login | None = None
    token_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one blob. `fetched_bytes` is 0 for a blob that the layout had already."""

    digest: AnyDigest
    media_type: str
    size_bytes: int
    ok: bool
    fetched_bytes: int
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PullReport:
    """A finished pull. `digest` is the digest behind the image's name; `skipped` are foreign layers."""

    image: str
    digest: AnyDigest
    verdicts: tuple[Verdict, ...]
    skipped: tuple[AnyDigest, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every blob is good."""
        return all(verdict.ok for verdict in self.verdicts)

    @property
    def fetched_bytes(self) -> int:
        """The bytes that came through the mirror, good or not."""
        return sum(verdict.fetched_bytes for verdict in self.verdicts)


def pull(request: PullRequest, progress: PullProgress, *, clock: Clock | None = None) -> PullReport:
    """Pull an image; the report has a verdict on each blob, good or bad.

    Raises PullError, OriginError, ManifestError and ForeignDirectoryError if there is nothing to give verdicts on.
    """
    image = request.image
    try:
        layout = None if request.destination is None else LayoutWriter(request.destination)
        clock = clock or SystemClock()
        mirror = mirror_of(
            image.repository.upstream,
            request.mirror,
            login=request.login,
            token_hosts=request.token_hosts,
            max_connections=PARALLEL_BLOBS + 1,  # the origin's client keeps one from bodies
            clock=clock,
        )
        with closing(mirror):
            return _Pull(request, mirror, layout, progress, clock).run()
    except OSError as error:  # the network's are OriginError
        raise PullError(f"{request.destination} cannot be written: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A manifest, and its bytes, which have the right digest."""

    descriptor: Descriptor
    body: bytes
    manifest: Manifest


class _Pull:
    def __init__(
        self,
        request: PullRequest,
        mirror: Origin,
        layout: LayoutWriter | None,
        progress: PullProgress,
        clock: Clock,
    ) -> None:
        self._request = request
        self._mirror = mirror
        self._layout = layout
        self._progress = progress
        self._clock = clock

    def run(self) -> PullReport:
        started = self._clock.monotonic()
        image = self._request.image
        named = self._manifest(image.reference, None)
        root = named if self._request.platform is None else self._of_platform(named, self._request.platform)
        manifests = list(self._with_children(root))
        blobs = {
            child.digest: child
            for fetched in manifests
            if fetched.manifest.kind is ManifestKind.IMAGE
            for child in fetched.manifest.children
        }
        wanted = [blob for blob in blobs.values() if not blob.foreign]
        verdicts = self._fetch_all(wanted)
        for fetched in manifests:
            size_bytes = len(fetched.body)
            verdicts.append(
                Verdict(fetched.descriptor.digest, fetched.manifest.media_type, size_bytes, True, size_bytes, 0.0)
            )
        report = PullReport(
            image=str(image),
            digest=named.descriptor.digest,
            verdicts=tuple(verdicts),
            skipped=tuple(digest for digest, blob in blobs.items() if blob.foreign),
            seconds=self._clock.monotonic() - started,
        )
        if self._layout is not None and report.ok:
            for fetched in manifests:
                self._layout.write(fetched.body)
            self._layout.name(root.descriptor, _names(image))
        return report

    def _fetch_all(self, blobs: list[Descriptor]) -> list[Verdict]:
        with ThreadPoolExecutor(PARALLEL_BLOBS, thread_name_prefix="pull") as threads:
            try:
                judged = [threads.submit(self._judge, blob) for blob in blobs]
                for verdict in as_completed(judged):
                    verdict.result()
                return [verdict.result() for verdict in judged]
            except BaseException:  # Ctrl-C, or a full disk: the other blobs need not go on
                self._mirror.close()
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _judge(self, blob: Descriptor) -> Verdict:
        """Fetch one blob and give its verdict."""
        started = self._clock.monotonic()
        self._progress.on_layer(blob.digest, blob.size_bytes, blob.media_type)
        error: str | None = None
        fetched_bytes = 0
        if not isinstance(blob.digest, Digest):
            error = f"p2pd pull verifies SHA-256 only, and this is a {blob.digest.algorithm}: pull it with skopeo"
        elif self._layout is None or not self._layout.has(blob.digest, blob.size_bytes):
            with BlobFile(self._layout.blobs if self._layout else None) as file:
                try:
                    self._fetch(blob, file)
                except P2pdError as failure:
                    error = str(failure)
                fetched_bytes = file.size_bytes
                if error is None and file.digest != blob.digest:
                    error = f"its bytes are {file.digest}"
                if error is None:
                    file.keep()
        seconds = self._clock.monotonic() - started
        self._progress.on_verdict(blob.digest, error is None, seconds)
        return Verdict(blob.digest, blob.media_type, blob.size_bytes, error is None, fetched_bytes, seconds, error)

    def _fetch(self, blob: Descriptor, file: BlobFile) -> None:
        """Fill `file` (rule 3). Raises PullError and OriginError."""
        if not blob.size_bytes:
            return
        ref = ContentRef(self._request.image.repository.name, blob.digest)
        view = memoryview(bytearray(min(_BUFFER_BYTES, blob.size_bytes)))
        try:
            with self._mirror.open(ref, 0, None, credential=_OURS) as body:
                if body.size_bytes != blob.size_bytes:
                    raise PullError(
                        f"{blob.digest}: it has {body.size_bytes} bytes, and {blob.size_bytes} in the manifest"
                    )
                while count := body.readinto(view):
                    file.write(view[:count])
                    self._progress.on_bytes(blob.digest, count)
        except OriginRefusedError as error:
            raise refusal(self._name(f"blobs/{blob.digest}"), error.status, error.body, self._how_to_log_in()) from None

    def _manifest(self, reference: Tag | AnyDigest, descriptor: Descriptor | None) -> _Fetched:
        """The manifest `reference`. `descriptor` is its entry in an index."""
        path = f"{self._request.image.repository.name}/manifests/{reference}"
        headers = {"accept": ", ".join(KIND_BY_MEDIA_TYPE)}
        answer = self._mirror.request("GET", path, credential=_OURS, headers=headers)
        if answer.status != http.client.OK:
            raise refusal(self._name(f"manifests/{reference}"), answer.status, answer.body, self._how_to_log_in())
        body = answer.body
        digest = Digest.of(body)
        expected = reference if ":" in reference else answer.headers.get("docker-content-digest", digest)
        if digest != expected:
            raise PullError(f"manifest {reference}: its bytes are {digest}, not {expected[:80]}")
        try:
            manifest = parse_manifest(body, descriptor.media_type if descriptor else answer.headers.get("content-type"))
        except ManifestError as error:
            raise ManifestError(f"manifest {reference}: {error}") from None
        return _Fetched(descriptor or Descriptor(manifest.media_type, digest, len(body)), body, manifest)

    def _how_to_log_in(self) -> str:
        registry = self._request.image.repository.upstream
        if self._request.login is None:
            name = "" if registry == DOCKER_HUB else f" {registry}"
            return f"if it is private, `docker login{name}`, or give --username and --password-stdin"
        return f"{registry} does not let {ascii(self._request.login.username)[1:-1]} have it: is the password right?"

    def _name(self, below: str) -> str:
        """The name of the content at `below`, for messages."""
        return f"{self._request.image.repository}/{below}"

    def _of_platform(self, fetched: _Fetched, platform: Platform) -> _Fetched:
        for _ in range(MAX_INDEX_DEPTH):
            if fetched.manifest.kind is ManifestKind.IMAGE:
                return fetched
            chosen = choose_platform(fetched.manifest.children, platform)
            if chosen is None:
                offered = sorted({str(child.platform) for child in fetched.manifest.children if child.platform})
                raise PullError(f"{self._request.image} is not there for {platform}; it is for: {', '.join(offered)}")
            fetched = self._manifest(chosen.digest, chosen)
        raise PullError(f"{self._request.image} has indexes within indexes, more than {MAX_INDEX_DEPTH} deep")

    def _with_children(self, root: _Fetched, depth: int = 0) -> Iterator[_Fetched]:
        """`root` and every manifest below it."""
        if depth > MAX_INDEX_DEPTH:
            raise PullError(f"{self._request.image} has indexes within indexes, more than {MAX_INDEX_DEPTH} deep")
        yield root
        if root.manifest.kind is ManifestKind.INDEX:
            for child in root.manifest.children:
                yield from self._with_children(self._manifest(child.digest, child), depth + 1)


def _names(image: ImageReference) -> dict[str, str]:
    """The image's names in a layout; none for an image that was requested by digest alone."""
    if image.tag is None:
        return {}
    return {REF_NAME: image.tag, CONTAINERD_NAME: f"{image.repository}:{image.tag}"}
