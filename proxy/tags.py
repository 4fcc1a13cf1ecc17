"""Tags: the origin says which manifest a tag names. Requests at the same time, or a moment later, share its answer, on
this host and in the whole cluster.

1. One host of the cluster asks the origin, with the credential of one of its clients. All hosts that look the tag up
   are told the digest (`peer.net.tag_lookups`). Nothing proves that the tag has this digest: the answer is as good as
   the host that asked.
2. The origin says, now, whether this host's client may have the digest in the repository (`proxy.access`). That is a
   HEAD of the digest with the client's own credential, at most once in `access_ttl_s`. So if N hosts pull a tag at
   once, one host asks for the tag and N - 1 hosts ask for the digest: as many requests as without the others. Later
   pulls are cheaper: all hosts together ask for the tag once in `tag_ttl_s`, and each host for the digest once in
   `access_ttl_s`. A host that lies can make this host serve another manifest of the repository that the client may
   have, and nothing else.
3. With `trust_hosts`, this host believes another host that says that the origin gave it the manifest without any
   credential. A tag of a public image then costs one request for all N hosts. A lie gives a client nothing that the
   lying host could not give it itself, as every host can get every blob from the others; but this host serves it.
4. If the client is refused, or does not accept the media type, it gets the origin's own answer for the tag. If no host
   answers in time, this host asks the origin itself.

While the origin is gone, or says nothing of access (`proxy.core.origin_answers`), a tag means its last known digest if
the operator allows that and anyone may have the image. Only a manifest is believed to be what a tag names.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol

import structlog

from peer.errors import OriginError, OriginRefusedError, OriginUnusableError
from peer.net.tag_lookups import TagFound, TagName, Turn
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest, Digest
from peer.oci.manifest import ANY_MANIFEST, KIND_BY_MEDIA_TYPE, MAX_MANIFEST_BYTES, is_manifest_type
from peer.oci.reference import Repository, Tag
from peer.origin.api import Credential
from peer.tasks import BackgroundTasks, SingleFlight
from proxy.access import Access, Permit
from proxy.catalog import Catalog
from proxy.core.accept import accepts
from proxy.core.origin_answers import Word, get_decides, shows_manifest, word_of_error
from proxy.core.routing import Route
from proxy.origins import OWN, Origins, described, manifest_in, unusable

log = structlog.get_logger("proxy.tags")

MAX_REMEMBERED = 4096


class TagCluster(Protocol):
    """The hosts that ask for tags together: `peer.net.tag_lookups.TagLookups`."""

    async def look_up(self, name: TagName) -> TagFound | Turn | None:
        """What another host found; or `Turn.OURS`: this host asks the origin for all; or None: no host helps."""
        ...

    def answer(self, name: TagName, status: int, found: TagFound | None = None) -> None:
        """Say what the origin answered when it was our turn."""
        ...


_Question = tuple[str, Route, str]
"""The client, its route and its Accept header: an answer is shared by requests that have the same three."""
_Meaning = tuple[Descriptor, Permit]


class Tags:
    """Resolves tags. `ttl_s` is how long an answer is shared. `serve_stale` allows the last known digest of a tag.

    Without a `cluster` this host asks alone. `trust_hosts` is rule 3.
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
        trust_hosts: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origins = origins
        self._access = access
        self._catalog = catalog
        self._ttl_s = ttl_s
        self._serve_stale = serve_stale
        self._cluster = cluster
        self._trust_hosts = trust_hosts
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
        tag = Tag(route.reference)
        try:
            meaning = await self._with_others(question, authorization)
            if meaning is None:
                meaning = self._granted(question, authorization, *await self._ask(route, authorization, accept))
        except OriginError as error:
            if word_of_error(error) is Word.SAYS_NOTHING:
                return self._last_known(route, error)
            self._origins.note(route.upstream, None)
            raise
        manifest, _ = meaning
        if self._catalog.last_known(route.repository, tag) != manifest:
            self._catalog.remember_tag(route.repository, tag, manifest)
        return meaning

    def forget(self, repository: Repository, digest: AnyDigest) -> None:
        """`digest` turned out to be no manifest: no tag names it, whatever the origin's headers said."""
        self._catalog.forget_manifest(repository, digest)
        self._answers = {
            question: answer for question, answer in self._answers.items() if answer[1][0].digest != digest
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

    # -- with the others of the cluster ----------------------------------------------------------------------------

    async def _with_others(self, question: _Question, authorization: str | None) -> _Meaning | None:
        """The answer that the hosts find together; None if this client needs the origin's own answer.

        Other hosts' answers are not remembered here: the scheduler remembers them for its `tag_ttl_s`.
        """
        if self._cluster is None:
            return None
        _, route, accept = question
        name = TagName(route.repository, Tag(route.reference))
        turn = await self._cluster.look_up(name)
        if turn is Turn.OURS:
            manifest, credential = await self._ask_for_all(self._cluster, name, route, authorization)
            if not accepts(accept, manifest.media_type):
                return None
            return self._granted(question, authorization, manifest, credential)
        if turn is None or not shows_manifest(turn.manifest) or not accepts(accept, turn.manifest.media_type):
            return None
        return await self._admit(route, authorization, turn)

    async def _ask_for_all(
        self, cluster: TagCluster, name: TagName, route: Route, authorization: str | None
    ) -> tuple[Descriptor, Credential]:
        """Ask the origin, and tell the other hosts the outcome, also if it is an error."""
        status, found = 0, None
        try:
            manifest, credential = await self._ask_openly_first(route, authorization)
            known = isinstance(manifest.digest, Digest) and manifest.media_type in KIND_BY_MEDIA_TYPE
            if known and manifest.size_bytes <= MAX_MANIFEST_BYTES:
                status, found = 200, TagFound(manifest, self._is_public(route.repository, credential))
        except OriginRefusedError as error:
            status = error.status
            raise
        finally:
            cluster.answer(name, status, found)
        return manifest, credential

    async def _ask_openly_first(self, route: Route, authorization: str | None) -> tuple[Descriptor, Credential]:
        """With `trust_hosts`, ask anonymously first: if anyone may have the manifest, no other host needs to ask."""
        if self._trust_hosts and not self._origins.upstream(route.upstream).has_credentials:
            try:
                return await self._ask(route, None, ANY_MANIFEST, anonymous=True)
            except OriginRefusedError:
                if authorization is None:
                    raise
        return await self._ask(route, authorization, ANY_MANIFEST)

    def _is_public(self, repository: Repository, credential: Credential) -> bool:
        return credential.authorization is None and not self._origins.upstream(repository.upstream).has_credentials

    async def _admit(self, route: Route, authorization: str | None, told: TagFound) -> _Meaning | None:
        """The manifest that another host found, if this client may have it (rules 2 and 3)."""
        manifest = told.manifest
        of_digest = replace(route, reference=manifest.digest)
        if told.public and self._trust_hosts:
            return manifest, self._access.granted(of_digest, OWN, None)
        try:
            permit = await self._access.check(of_digest, authorization)
        except OriginRefusedError as error:
            log.info("asking for a tag that another host resolved", repository=str(route.repository), reason=str(error))
            return None
        asked_now = permit.described
        return asked_now if asked_now is not None and _is_of_manifest(asked_now) else manifest, permit

    # -- at the origin ---------------------------------------------------------------------------------------------

    async def _ask(
        self, route: Route, authorization: str | None, accept: str, *, anonymous: bool = False
    ) -> tuple[Descriptor, Credential]:
        """The manifest that the tag names, and the credential that the origin answered.

        HEAD first, then GET: some registries do not answer HEAD as the specification wants.
        """
        ask = self._origins.ask_anonymously if anonymous else partial(self._origins.ask, authorization=authorization)
        with suppress(OriginUnusableError):  # of HEAD: the headers alone cannot be used
            asked = await ask(route, "HEAD", route.origin_path, accept=accept)
            manifest = described(asked.answer) if asked.answer.status == 200 else None
            if manifest is not None and _is_of_manifest(manifest):
                return manifest, asked.credential
            if not get_decides(asked.answer.status, redirected=asked.answer.redirected):
                raise unusable(asked.answer, f"{route.repository}:{route.reference}")
        asked = await ask(route, "GET", route.origin_path, accept=accept)
        return manifest_in(asked.answer, f"{route.repository}:{route.reference}"), asked.credential

    def _last_known(self, route: Route, silence: OriginError) -> _Meaning:
        repository, tag = route.repository, Tag(route.reference)
        manifest = self._catalog.last_known(repository, tag) if self._serve_stale else None
        if manifest is None or not is_manifest_type(manifest.media_type):
            raise silence
        permit = self._access.public_while_silent(replace(route, reference=manifest.digest), silence)
        if permit is None:
            raise silence
        log.debug("served a tag's last known digest", image=f"{repository}:{tag}", digest=manifest.digest)
        return manifest, permit


def _is_of_manifest(found: Descriptor) -> bool:
    """Whether the descriptor of an origin's headers is complete, and small enough for a manifest."""
    return shows_manifest(found) and found.size_bytes <= MAX_MANIFEST_BYTES
