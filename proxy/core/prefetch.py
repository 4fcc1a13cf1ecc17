"""Pulls: which of a mirror's requests belong to one image, what to fetch ahead for it, and what to say at its end.

A runtime takes an image's layers from the lowest up, some at a time (dockerd and containerd 3, podman 6), and unpacks
them in that order more slowly than they come. So when it asks for a layer, those after it are likely to be next. Those
before the highest that it asked for, and did not ask for, it has already. Therefore what is fetched ahead are the next
few layers above the highest that was asked for, and never one that was passed over.

A pull has ended when all that was asked for has been sent, and nothing has been asked for since `idle_s`. If it goes on
after that, it is told of again, with what came since, and is fetched ahead for as before.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from proxy.core.grants import Place

MAX_PULLS = 256
"""Pulls that are followed at once; the oldest is forgotten first, and merely not fetched ahead for."""

IDLE_S = 5.0
"""Longer than a runtime takes between two layers, unless it unpacks a large one: then the log has two lines."""


@dataclass(frozen=True, slots=True)
class PullSummary:
    """What the log says of a pull. Bytes are those sent to the client; `origin_bytes` had to be fetched for it."""

    image: str
    user_agent: str
    seconds: float
    blobs: int
    failed: int
    store_bytes: int
    origin_bytes: int


@dataclass(slots=True)
class _Pull:
    place: Place
    image: str
    user_agent: str
    layers: tuple[str, ...]
    children: frozenset[str]
    active_until: float
    highest: int = -1
    sending: int = 0
    untold: _Untold | None = None


@dataclass(slots=True)
class _Untold:
    """What happened since the log was told last."""

    started: float
    blobs: int = 0
    failed: int = 0
    store_bytes: int = 0
    origin_bytes: int = 0


@dataclass(slots=True)
class Pulls:
    """Follows pulls by (client, manifest). `depth` is how many layers to be ahead of the client (0: none)."""

    depth: int
    idle_s: float = IDLE_S
    _pulls: OrderedDict[tuple[str, str], _Pull] = field(default_factory=OrderedDict)

    def manifest_served(
        self,
        client: str,
        manifest: str,
        *,
        place: Place,
        image: str,
        user_agent: str,
        children: tuple[str, ...],
        now: float,
    ) -> None:
        """`client` was given an image's manifest; `children` are its config and then its layers in order."""
        key = (client, manifest)
        if key not in self._pulls:
            self._pulls[key] = _Pull(place, image, user_agent, children[1:], frozenset(children), now)
        pull = self._pulls[key]
        if pull.untold is None:
            pull.untold, pull.highest = _Untold(now), -1
        pull.active_until = now
        self._pulls.move_to_end(key)
        while len(self._pulls) > MAX_PULLS:
            self._pulls.popitem(last=False)

    def blob_asked(self, client: str, place: Place, digest: str, now: float) -> list[str]:
        """`client` asks for a blob: which layers to fetch ahead now, nearest first."""
        ahead: list[str] = []
        for pull in self._of(client, place, digest):
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
        self, client: str, place: Place, digest: str, *, sent_bytes: int, from_store: bool, failed: bool, now: float
    ) -> None:
        """What `blob_asked` began is over. A client that goes away before the end is no failure of ours."""
        for pull in self._of(client, place, digest):
            pull.sending = max(0, pull.sending - 1)
            pull.active_until = now
            untold = pull.untold = pull.untold or _Untold(now)
            untold.blobs += 1
            untold.failed += failed
            if from_store:
                untold.store_bytes += sent_bytes
            else:
                untold.origin_bytes += sent_bytes

    def ended(self, now: float) -> list[PullSummary]:
        """The pulls that have ended by `now`, each told once."""
        summaries = []
        for pull in self._pulls.values():
            untold = pull.untold
            if untold is None or pull.sending or now - pull.active_until < self.idle_s:
                continue
            pull.untold = None
            summaries.append(
                PullSummary(
                    image=pull.image,
                    user_agent=pull.user_agent,
                    seconds=pull.active_until - untold.started,
                    blobs=untold.blobs,
                    failed=untold.failed,
                    store_bytes=untold.store_bytes,
                    origin_bytes=untold.origin_bytes,
                )
            )
        return summaries

    def _of(self, client: str, place: Place, digest: str) -> list[_Pull]:
        return [
            pull
            for (known, _), pull in self._pulls.items()
            if known == client and pull.place == place and digest in pull.children
        ]
