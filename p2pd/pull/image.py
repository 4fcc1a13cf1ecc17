"""Pulling an image through the mirror as a container runtime does, and judging every digest that comes.

It is what an operator tries first (`p2pd pull alpine`), what fills a cache before it is needed, and what writes an
image layout for a site without a registry.

Rules:
1. Nothing counts that was not hashed: a blob is good when its bytes have the digest that its manifest says.
2. Blobs come three at a time, as with dockerd and containerd. Memory is one buffer for each of them.
3. A body that ends early goes on with Range from where it broke off; without a byte of progress, only so often.
4. One blob that cannot be had does not stop the others. The image gets its name in the layout only if all are good.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from p2pd.config.values import Address
from p2pd.pull.client import MirrorClient, MirrorError
from p2pd.pull.layout_writer import CONTAINERD_NAME, REF_NAME, BlobFile, LayoutWriter
from p2pd.pull.platforms import choose_platform
from peer.errors import ManifestError, P2pdError
from peer.oci.manifest import (
    KIND_BY_MEDIA_TYPE,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Manifest,
    ManifestKind,
    Platform,
    parse_manifest,
)
from peer.oci.reference import Digest, ImageReference, Tag
from peer.origin.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pd.pull.docker_config import Login

PARALLEL_BLOBS: Final = 3
"""`max-concurrent-downloads` of dockerd, and of containerd's CRI plugin, by default."""

MAX_INDEX_DEPTH: Final = 4
"""Indexes within indexes; real ones have one level."""

_BUFFER_BYTES = 1024 * 1024
_MAX_FRUITLESS = 5
"""Attempts in a row that bring nothing; dockerd's `max-download-attempts`."""

_BACKOFF_S = 0.2


class PullError(P2pdError):
    """The image could not be pulled, or not be written."""


class PullProgress(Protocol):
    """What is told while a pull goes on, from several threads."""

    def on_layer(self, digest: str, size_bytes: int, media_type: str) -> None:
        """A config or layer is about to be fetched."""
        ...

    def on_bytes(self, digest: str, count: int) -> None:
        """So much more of it came; negative for what has to come again."""
        ...

    def on_verdict(self, digest: str, ok: bool, seconds: float) -> None:
        """It is there and right, or it is not."""
        ...


class NoProgress:
    """Tells nobody."""

    def on_layer(self, digest: str, size_bytes: int, media_type: str) -> None: ...

    def on_bytes(self, digest: str, count: int) -> None: ...

    def on_verdict(self, digest: str, ok: bool, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What to pull, by whom, through what, and where to.

    `destination` is a layout's directory, None to keep nothing. `platform` None pulls all of an index's platforms.
    """

    image: ImageReference
    mirror: Address
    destination: Path | None = None
    platform: Platform | None = None
    login: Login | None = None
    token_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one blob. `fetched_bytes` is 0 for one that the layout had already."""

    digest: Digest
    media_type: str
    size_bytes: int
    ok: bool
    fetched_bytes: int
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PullReport:
    """A pull that came to an end. `digest` is what the image's name stood for; `skipped` are foreign layers."""

    image: str
    digest: Digest
    verdicts: tuple[Verdict, ...]
    skipped: tuple[Digest, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every blob is there and right."""
        return all(verdict.ok for verdict in self.verdicts)

    @property
    def fetched_bytes(self) -> int:
        """What came through the mirror, whether it was good or not."""
        return sum(verdict.fetched_bytes for verdict in self.verdicts)


def pull(request: PullRequest, progress: PullProgress, *, clock: Clock | None = None) -> PullReport:
    """Pull an image. Raises PullError, MirrorError, ManifestError and ForeignDirectoryError when nothing can be judged.

    What can be is in the report, be it good or bad.
    """
    image = request.image
    try:
        layout = None if request.destination is None else LayoutWriter(request.destination)
        with MirrorClient(
            request.mirror, image.upstream, login=request.login, token_hosts=request.token_hosts
        ) as client:
            return _Pull(request, client, layout, progress, clock or SystemClock()).run()
    except OSError as error:  # the network's are MirrorError
        raise PullError(f"{request.destination} cannot be written: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A manifest with its bytes, of which the digest is right."""

    descriptor: Descriptor
    body: bytes
    manifest: Manifest


class _Pull:
    def __init__(
        self,
        request: PullRequest,
        client: MirrorClient,
        layout: LayoutWriter | None,
        progress: PullProgress,
        clock: Clock,
    ) -> None:
        self._request = request
        self._client = client
        self._layout = layout
        self._progress = progress
        self._clock = clock
        self._interrupted = threading.Event()

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
            except BaseException:  # Ctrl-C, or a full disk: the others need not go on
                self._interrupted.set()
                self._client.close()
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _judge(self, blob: Descriptor) -> Verdict:
        """Have one blob, and say whether it is right."""
        started = self._clock.monotonic()
        self._progress.on_layer(blob.digest, blob.size_bytes, blob.media_type)
        error: str | None = None
        fetched_bytes = 0
        if self._layout is None or not self._layout.has(blob.digest, blob.size_bytes):
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
        """Fill `file` (rule 3). Raises MirrorError."""
        fruitless = 0
        while file.size_bytes < blob.size_bytes:
            before = file.size_bytes
            try:
                self._fetch_some(blob, file)
                failure = MirrorError(f"{blob.digest}: only {file.size_bytes} of {blob.size_bytes} bytes came")
            except MirrorError as error:
                failure = error
            if file.size_bytes == blob.size_bytes:
                return
            fruitless = 0 if file.size_bytes > before else fruitless + 1
            if failure.lasting or fruitless == _MAX_FRUITLESS:
                raise failure
            if fruitless and self._clock.wait(self._interrupted, _BACKOFF_S * 2**fruitless):
                raise MirrorError("the pull was interrupted", lasting=True)

    def _fetch_some(self, blob: Descriptor, file: BlobFile) -> None:
        """One body, as far as it goes."""
        view = memoryview(bytearray(min(_BUFFER_BYTES, blob.size_bytes)))
        repository = self._request.image.repository
        with self._client.get(repository, f"blobs/{blob.digest}", start=file.size_bytes) as reply:
            if reply.start != file.size_bytes:  # the range was ignored
                self._progress.on_bytes(blob.digest, -file.size_bytes)
                file.restart()
            if reply.length is not None and reply.start + reply.length != blob.size_bytes:
                raise MirrorError(
                    f"{blob.digest}: it has {reply.start + reply.length} bytes, and {blob.size_bytes} in the manifest",
                    lasting=True,
                )
            while count := reply.readinto(view[: blob.size_bytes - file.size_bytes]):
                file.write(view[:count])
                self._progress.on_bytes(blob.digest, count)

    def _manifest(self, reference: Tag | Digest, descriptor: Descriptor | None) -> _Fetched:
        """The manifest `reference`; `descriptor` is what an index says of it."""
        repository = self._request.image.repository
        accept = ", ".join(KIND_BY_MEDIA_TYPE)
        with self._client.get(repository, f"manifests/{reference}", accept=accept) as reply:
            body = reply.read(MAX_MANIFEST_BYTES + 1)
            content_type = reply.headers.get("content-type")
            told = reply.headers.get("docker-content-digest")
        digest = Digest(f"sha256:{sha256(body).hexdigest()}")
        expected = reference if ":" in reference else told or digest
        if digest != expected:
            raise PullError(f"manifest {reference}: its bytes are {digest}, not {expected[:80]}")
        try:
            manifest = parse_manifest(body, descriptor.media_type if descriptor else content_type)
        except ManifestError as error:
            raise ManifestError(f"manifest {reference}: {error}") from None
        return _Fetched(descriptor or Descriptor(manifest.media_type, digest, len(body)), body, manifest)

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
    """What a layout is to call it; what was asked for by digest alone has no name."""
    if image.tag is None:
        return {}
    return {REF_NAME: image.tag, CONTAINERD_NAME: f"{image.upstream}/{image.repository}:{image.tag}"}
