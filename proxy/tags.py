"""Tags: the origin says which manifest a tag names. Each host asks its own origin, at most once in `ttl_s` for clients
with the same credential and Accept header.

1. The question is a HEAD of the tag, with the client's own credential. The answer grants the client the manifest
   (`proxy.access`), so the digest is not asked for again. The manifest's bytes come from the swarm, as any blob's. So N
   hosts that pull a tag at once cost the origin N HEADs and one GET.
2. While the origin says nothing (`proxy.core.origin_answers`), and if the operator allows that (`serve_stale`), a tag
   means what this host's own origin said last. If this host never asked for the tag, it means what most of the hosts
   that asked their origins were told last (`scheduler.core.tags`). In both cases anyone may have the image.
3. Another host's word is never remembered as this host's own, and is told to nobody. Otherwise one lie could grow into
   a majority.
4. What the operator has imported (`p2pd site import`) is the operator's word. It counts as the origin's last word, and
   while the origin says nothing it is the answer, whatever `serve_stale` is.
5. Only a manifest is believed to be what a tag names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Protocol

import structlog
from msgspec.structs import replace

from peer.errors import OriginError, OriginUnusableError
from peer.net.tag_lookups import TagName, TagWord
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.oci.manifest import MAX_MANIFEST_BYTES
from peer.oci.reference import Repository, Tag
from peer.origin.api import Credential
from peer.tasks import BackgroundTasks, SingleFlight
from proxy.access import Access, Permit
from proxy.catalog import Catalog
from proxy.core.origin_answers import Word, get_decides, shows_manifest, word_of_error
from proxy.core.routing import Endpoint, Route
from proxy.origins import Origins, described, manifest_in, unusable

log = structlog.get_logger("proxy.tags")

MAX_REMEMBERED = 4096


class TagCluster(Protocol):
    """The other hosts: `peer.net.tag_lookups.TagLookups`."""

    async def most_were_told(self, name: TagName) -> Descriptor | None:
        """The public manifest that the origins of most hosts gave for the tag last; None if there is no such majority,
        or nobody to ask."""
        ...


_Question = tuple[str, Route, str]
"""The client, its route and its Accept header: an answer is shared by requests that have the same three."""
_Meaning = tuple[Descriptor, Permit]


class Tags:
    """Resolves tags. `ttl_s` is how long an answer is shared. `serve_stale` allows rule 2. Without a `cluster`
    only what this host was told counts.
    """

    def __init__(
        self,
        origins: Origins,
        access: Access,
        catalog: Catalog,
        background: BackgroundTasks,
        *,
        ttl_s: float,
        serve_stale: bool,
        cluster: TagCluster | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origins = origins
        self._access = access
        self._catalog = catalog
        self._ttl_s = ttl_s
        self._serve_stale = serve_stale
        self._cluster = cluster
        self._clock = clock
        self._asking: SingleFlight[_Question, _Meaning] = SingleFlight(background)
        self._answers: dict[_Question, tuple[float, _Meaning]] = {}

    async def resolve(self, route: Route, authorization: str | None, accept: str) -> tuple[Descriptor, Permit]:
        """The manifest that `route.reference` names for this client, and the client's permit to have it.

        Raises OriginError.
        """
        question = (self._access.client(authorization), route, accept)
        until, meaning = self._answers.get(question, (0.0, None))
        if meaning is not None and until > self._clock() and not self._access.is_over(meaning[1]):
            return meaning
        return await self._asking.get(question, lambda: self._resolve(question, authorization))

    async def _resolve(self, question: _Question, authorization: str | None) -> _Meaning:
        _, route, accept = question
        try:
            manifest, credential = await self._ask(route, authorization, accept)
        except OriginError as error:
            if word_of_error(error) is Word.SAYS_NOTHING:
                return await self._while_silent(route, error)
            self._origins.note(route.upstream, None)
            raise
        self._catalog.remember_tag(route.repository, Tag(route.reference), manifest)
        return self._granted(question, authorization, manifest, credential)

    def own_word(self, name: TagName) -> TagWord | None:
        """What this host's own origin said last of a tag, for other hosts; None if not everybody may have the image.

        What the origin gave to the operator's credentials counts as private, because other hosts may have none.
        """
        told = self._catalog.last_told(name.repository, name.tag)
        upstream = self._origins.upstreams.get(name.repository.upstream)
        if told is None or not _is_of_manifest(told.manifest) or (upstream is not None and upstream.has_credentials):
            return None
        public = self._catalog.is_public(name.repository, Endpoint.MANIFEST, told.manifest.digest)
        return TagWord(told.manifest, told.age_s) if public else None

    def vouched(self, repository: Repository, tag: Tag, manifest: Descriptor) -> None:
        """The operator says what a tag means (rule 4)."""
        self._catalog.vouch_for_tag(repository, tag, manifest)

    def forget(self, repository: Repository, digest: AnyDigest) -> None:
        """`digest` turned out to be no manifest: no tag names it, whatever the origin's headers said."""
        self._catalog.forget_manifest(repository, digest)
        self._answers = {
            question: answer for question, answer in self._answers.items() if answer[1][0].digest != digest
        }

    def forget_all_of(self, upstreams: Collection[str]) -> None:
        """These upstreams are others now, or have other credentials: their origins are asked anew."""
        self._answers = {
            question: answer for question, answer in self._answers.items() if question[1].upstream not in upstreams
        }

    def _granted(
        self, question: _Question, authorization: str | None, manifest: Descriptor, credential: Credential
    ) -> _Meaning:
        """The origin has just told this host `manifest`: grant it, and share it for `ttl_s`."""
        _, route, _ = question
        self._origins.note(route.upstream, None)
        of_digest = replace(route, reference=manifest.digest)
        permit = self._access.granted(of_digest, credential, authorization, manifest)
        if len(self._answers) >= MAX_REMEMBERED:
            self._answers.clear()
        self._answers[question] = (self._clock() + self._ttl_s, (manifest, permit))
        return manifest, permit

    # -- at the origin ---------------------------------------------------------------------------------------------

    async def _ask(self, route: Route, authorization: str | None, accept: str) -> tuple[Descriptor, Credential]:
        """The manifest that the tag names, and the credential that the origin answered.

        HEAD first, then GET: some registries do not answer HEAD as the specification wants.
        """
        with suppress(OriginUnusableError):  # of HEAD: the headers alone cannot be used
            asked = await self._origins.ask(route, "HEAD", route.origin_path, authorization, accept)
            manifest = described(asked.answer) if asked.answer.status == 200 else None
            if manifest is not None and _is_of_manifest(manifest):
                return manifest, asked.credential
            if not get_decides(asked.answer.status, redirected=asked.answer.redirected):
                raise unusable(asked.answer, f"{route.repository}:{route.reference}")
        asked = await self._origins.ask(route, "GET", route.origin_path, authorization, accept)
        return manifest_in(asked.answer, f"{route.repository}:{route.reference}"), asked.credential

    # -- while the origin says nothing -------------------------------------------------------------------------------

    async def _while_silent(self, route: Route, silence: OriginError) -> _Meaning:
        """Rule 2. Raises `silence`."""
        name = TagName(route.repository, Tag(route.reference))
        manifest, by_hosts = self._catalog.vouched_for(name.repository, name.tag), False
        if manifest is None and self._serve_stale:
            manifest, by_hosts = await self._told_last(name)
        if manifest is None or not _is_of_manifest(manifest):
            raise silence
        of_digest = replace(route, reference=manifest.digest)
        permit = self._access.public_while_silent(of_digest, silence, told_by_hosts=by_hosts)
        if permit is None:
            raise silence
        log.debug("served a tag's last known digest", image=str(name), digest=manifest.digest, told_by_hosts=by_hosts)
        return manifest, permit

    async def _told_last(self, name: TagName) -> tuple[Descriptor | None, bool]:
        """What origins said last of a tag, and whether other hosts say so."""
        told = self._catalog.last_told(name.repository, name.tag)
        if told is not None:
            return told.manifest, False
        return await self._cluster.most_were_told(name) if self._cluster else None, True


def _is_of_manifest(found: Descriptor) -> bool:
    """Whether the descriptor is complete, and small enough for a manifest."""
    return shows_manifest(found) and found.size_bytes <= MAX_MANIFEST_BYTES
