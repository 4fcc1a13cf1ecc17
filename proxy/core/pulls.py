"""Pulls: the requests that belong to one image, the layers to fetch ahead for it, and a summary for the log.

A runtime asks for an image's layers from the lowest up, a few at a time (dockerd and containerd 3, podman 6). It
unpacks them in that order, more slowly than they arrive. So after a request for a layer, requests for the layers above
it are likely. The runtime already has a lower layer that it did not ask for. Therefore the next few layers above the
highest requested layer are fetched ahead, and never a layer that was passed over.

A pull has ended when every answer was sent and no request came for `idle_s`. If requests come after that, the pull is
summarised again, with the later requests only, and its layers are fetched ahead as before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Struct

from peer.oci.digest import AnyDigest
from peer.oci.reference import Repository
from peer.store.facts import Came
from proxy.core.tag_names import TagName

MAX_PULLS = 256
"""Pulls that are followed at once. The oldest is forgotten first: its layers are no longer fetched ahead."""

IDLE_S = 5.0
"""Longer than a runtime takes between two layers. While it unpacks a large layer it may take longer: the log then has
two lines of the pull."""


class PullSummary(Struct, frozen=True):
    """The log's line of a pull. Bytes are those sent to the client, by where they were when the pull began.

    What was fetched ahead of the client counts as fetched, and not as in the store.
    """

    image: str
    user_agent: str
    seconds: float
    blobs: int
    failed: int
    store_bytes: int
    peer_bytes: int
    origin_bytes: int
    tag: str = ""
    """The image by the tag with which the client came to it; empty if it named a digest alone."""
    digest: str = ""
    """The manifest that the tag named."""


@dataclass(slots=True)
class _Pull:
    repository: Repository
    image: str
    user_agent: str
    layers: tuple[AnyDigest, ...]
    children: frozenset[AnyDigest]
    active_until: float
    name: TagName | None
    before: dict[AnyDigest, Came]
    """What had come of its blobs before the pull, or was told already."""
    highest: int = -1
    sending: int = 0
    untold: _Untold | None = None


@dataclass(slots=True)
class _Untold:
    """The requests since the last summary."""

    started: float
    blobs: int = 0
    failed: int = 0
    relayed_bytes: int = 0
    sent_bytes: dict[AnyDigest, int] = field(default_factory=dict)
    came: dict[AnyDigest, Came] = field(default_factory=dict)


@dataclass(slots=True)
class Pulls:
    """Pulls by (client, manifest). `depth` is how many layers to fetch ahead of the client (0: none).

    `came` says what has come of a blob that is held.
    """

    depth: int
    came: Callable[[AnyDigest], Came] = lambda _: Came()
    idle_s: float = IDLE_S
    _pulls: OrderedDict[tuple[str, AnyDigest], _Pull] = field(default_factory=OrderedDict)

    def manifest_served(
        self,
        client: str,
        manifest: AnyDigest,
        *,
        repository: Repository,
        image: str,
        user_agent: str,
        children: tuple[AnyDigest, ...],
        foreign: frozenset[AnyDigest] = frozenset(),
        name: TagName | None = None,
        now: float,
    ) -> None:
        """`client` was sent an image's manifest. `children` are its config and then its layers from the lowest up.

        The registry need not have the `foreign` layers, so they are not fetched ahead.
        """
        key = (client, manifest)
        if key not in self._pulls:
            layers = tuple(layer for layer in children[1:] if layer not in foreign)
            self._pulls[key] = _Pull(repository, image, user_agent, layers, frozenset(children), now, name, {})
        pull = self._pulls[key]
        pull.name = name
        if pull.untold is None:
            pull.untold, pull.highest = _Untold(now), -1
            pull.before = {child: self.came(child) for child in pull.children}
        pull.active_until = now
        self._pulls.move_to_end(key)
        while len(self._pulls) > MAX_PULLS:
            self._pulls.popitem(last=False)

    def blob_asked(self, client: str, repository: Repository, digest: AnyDigest, now: float) -> list[AnyDigest]:
        """`client` asks for a blob. Returns the layers to fetch ahead now, nearest first."""
        ahead: list[AnyDigest] = []
        for pull in self._of(client, repository, digest):
            pull.sending += 1
            pull.active_until = now
            pull.untold = pull.untold or _Untold(now)
            if digest in pull.layers:
                pull.highest = max(pull.highest, pull.layers.index(digest))
                passed, above = pull.layers[: pull.highest + 1], pull.layers[pull.highest + 1 :]
                # An image may have a layer twice, such as the empty one.
                ahead += [layer for layer in above[: self.depth] if layer not in passed and layer not in ahead]
        return ahead

    def blob_ended(
        self,
        client: str,
        repository: Repository,
        digest: AnyDigest,
        *,
        sent_bytes: int,
        relayed: bool,
        failed: bool,
        now: float,
    ) -> None:
        """The answer that `blob_asked` announced has ended. `failed` is not for a client that went away.

        `relayed`: it was passed on from the origin, past the store.
        """
        for pull in self._of(client, repository, digest):
            pull.sending = max(0, pull.sending - 1)
            pull.active_until = now
            untold = pull.untold = pull.untold or _Untold(now)
            untold.blobs += 1
            untold.failed += failed
            if relayed:
                untold.relayed_bytes += sent_bytes
            else:
                untold.sent_bytes[digest] = untold.sent_bytes.get(digest, 0) + sent_bytes
                untold.came[digest] = self.came(digest)

    def is_under_way(self, repository: Repository, digest: AnyDigest) -> bool:
        """Whether a pull that has not ended, from whatever client, has this blob."""
        pulls = (pull for pull in self._pulls.values() if pull.untold is not None)
        return any(pull.repository == repository and digest in pull.children for pull in pulls)

    @property
    def under_way(self) -> int:
        """How many pulls have not ended."""
        return sum(pull.untold is not None for pull in self._pulls.values())

    def ended(self, now: float) -> list[PullSummary]:
        """The pulls that have ended by `now`. Each is returned once."""
        summaries = []
        for pull in self._pulls.values():
            untold = pull.untold
            if untold is None or pull.sending or now - pull.active_until < self.idle_s:
                continue
            pull.untold = None
            sources = [self._sources(pull, untold, digest) for digest in untold.sent_bytes]
            origin_bytes = sum(each.origin_bytes for each in sources)
            peer_bytes = sum(each.peer_bytes for each in sources)
            summaries.append(
                PullSummary(
                    image=pull.image,
                    user_agent=pull.user_agent,
                    seconds=round(pull.active_until - untold.started, 3),
                    blobs=untold.blobs,
                    failed=untold.failed,
                    store_bytes=sum(untold.sent_bytes.values()) - peer_bytes - origin_bytes,
                    peer_bytes=peer_bytes,
                    origin_bytes=origin_bytes + untold.relayed_bytes,
                    tag="" if pull.name is None else f"{pull.repository}:{pull.name.tag}",
                    digest="" if pull.name is None else pull.name.digest,
                )
            )
        return summaries

    def _sources(self, pull: _Pull, untold: _Untold, digest: AnyDigest) -> Came:
        """What of the bytes sent of a blob had come since the pull began. Each byte that came is told once.

        Of a blob that was evicted since it was sent, that is what had come by then. The last pieces are counted a
        moment after they are sent.
        """
        then, now, before = untold.came[digest], self.came(digest), pull.before.get(digest, Came())
        pull.before[digest] = now
        sent_bytes = untold.sent_bytes[digest]
        origin_bytes = max(0, max(then.origin_bytes, now.origin_bytes) - before.origin_bytes)
        peer_bytes = max(0, max(then.peer_bytes, now.peer_bytes) - before.peer_bytes)
        origin_bytes = min(sent_bytes, origin_bytes)
        return Came(origin_bytes, min(sent_bytes - origin_bytes, peer_bytes))

    def _of(self, client: str, repository: Repository, digest: AnyDigest) -> list[_Pull]:
        return [
            pull
            for (known, _), pull in self._pulls.items()
            if known == client and pull.repository == repository and digest in pull.children
        ]
