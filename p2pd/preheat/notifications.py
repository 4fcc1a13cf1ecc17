"""Notifications of pushes: a tag that was just pushed is preheated where its repository is in use, and as rules say.

    POST /registry/notifications    events of docker-registry (distribution), webhooks of Harbor, CloudEvents (Harbor,
                                    zot), and of Harbor's driver for Kraken, which means one host of each site
         ?upstream=NAME             the registry's name in images, where the event has another or none

Rules:
1. An event shows the token of preheats (`p2pd preheat --token`) as Bearer or as the password of Basic, or is signed
   with it: `X-Hub-Signature-256: sha256=` and the HMAC-SHA256 of the body.
2. A tag that is pushed several times within `DEBOUNCE_S` is preheated once, as it is at the end.
3. Several schedulers may be told of one push, and a registry may tell of it again: it is preheated once. The event's
   digest and time, which are the same wherever it is told, make the idempotency key.
4. Whatever is no push of a tag is answered with 200 and ignored: a registry sends again what was refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from p2pd.preheat.api import Service, record_of
from p2pd.preheat.request import RequestError, parse_request
from p2pd.preheat.rules import PreheatRules
from p2pd.preheat.token import PreheatToken
from peer.errors import InvalidNameError, P2pdError
from peer.oci.reference import parse_image_reference, parse_upstream_name
from peer.tasks import BackgroundTasks
from scheduler.core.preheat_record import PreheatStoreError, TooManyJobsError

log = structlog.get_logger("p2pd.preheat.notifications")

PATH: Final = "/registry/notifications"
SIGNATURE: Final = "X-Hub-Signature-256"
DEBOUNCE_S: Final = 5.0
MAX_WAITING: Final = 1000
MAX_BODY_BYTES: Final = 1024 * 1024
_PUSHES: Final = frozenset({"PUSH_ARTIFACT", "harbor.artifact.pushed", "zotregistry.image.updated"})


@dataclass(frozen=True, slots=True)
class Pushed:
    """A tag that was pushed. `asked_for`: somebody wants it on some hosts, whether they use its repository or not.

    `event` tells the push from other pushes of the tag; "": it cannot be told.
    """

    image: str
    asked_for: bool = False
    event: str = field(default="", compare=False)

    @property
    def key(self) -> str | None:
        """Of its preheat. It has spaces, as none of the API's has."""
        return f"push {self.asked_for} {self.image} {self.event}" if self.event else None


class Notifications:
    """On the event loop. Tasks that wait live in `tasks`."""

    def __init__(
        self,
        service: Service,
        token: PreheatToken,
        tasks: Callable[[], BackgroundTasks | None],
        rules: PreheatRules,
        *,
        on_push: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        debounce_s: float = DEBOUNCE_S,
    ) -> None:
        self._service = service
        self._token = token
        self._tasks = tasks
        self._rules = rules
        self._on_push = on_push
        self._clock = clock
        self._debounce_s = debounce_s
        self._waiting: dict[Pushed, list[Pushed]] = {}
        """Each with what has come since the wait for it began."""

    def routes(self) -> list[web.RouteDef]:
        return [web.post(PATH, self.receive)]

    def is_signed(self, request: web.Request) -> bool:
        """Whether a request may be let in because its body says who sent it, which `receive` looks at first."""
        return request.path == PATH and request.method == "POST" and SIGNATURE in request.headers

    async def receive(self, request: web.Request) -> web.Response:
        """Take events."""
        body = bytearray()
        async for part in request.content.iter_chunked(64 * 1024):
            body += part
            if len(body) > MAX_BODY_BYTES:
                return web.json_response({"error": f"the body is longer than {MAX_BODY_BYTES} bytes"}, status=413)
        if SIGNATURE in request.headers and not self._signs(request.headers[SIGNATURE], bytes(body)):
            return web.json_response({"error": "the signature is wrong"}, status=403)
        upstream = request.query.get("upstream", "")
        try:
            if upstream:
                parse_upstream_name(upstream)
            found = list(pushed_in(json.loads(body), upstream))
        except InvalidNameError as error:
            return web.json_response({"error": str(error)}, status=400)
        except (ValueError, RecursionError, RequestError):
            return web.json_response({"error": "the body is no JSON of events"}, status=400)
        tasks = self._tasks()
        if tasks is None:
            return web.json_response({"error": "the scheduler is starting or stopping"}, status=503)
        for each in found:
            if each not in self._waiting and len(self._waiting) >= MAX_WAITING:
                return web.json_response({"error": "too many pushes wait: send them again later"}, status=503)
            if each not in self._waiting:
                self._waiting[each] = []
                tasks.start(self._wait(each))
            self._waiting[each].append(each)
        return web.json_response({"accepted": [each.image for each in dict.fromkeys(found)]})

    def _signs(self, given: str, body: bytes) -> bool:
        token = self._token.read()
        if token is None:
            return False
        right = "sha256=" + hmac.new(token.encode(), body, "sha256").hexdigest()
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), right.encode())

    async def _wait(self, pushed: Pushed) -> None:
        """Preheat a tag once it was not pushed for a while."""
        try:
            while self._waiting[pushed]:
                pushed = self._waiting[pushed].pop()
                self._waiting[pushed].clear()
                await asyncio.sleep(self._debounce_s)
        finally:
            del self._waiting[pushed]
        if not pushed.asked_for:
            self._on_push(pushed.image)
        service, now = self._service(), self._clock()
        if service is None:
            return
        request = parse_request({"images": [pushed.image], "to": "1/site" if pushed.asked_for else "all"}, now)
        record = record_of(request, "kraken" if pushed.asked_for else "push", now)
        record = replace(record, order=replace(record.order, only_where_used=not pushed.asked_for))
        try:
            await service.add(record, key=pushed.key)
        except (TooManyJobsError, PreheatStoreError) as error:
            log.warning("a push was not preheated", image=pushed.image, reason=str(error))
        if not pushed.asked_for:
            await self._rules.pushed(pushed.image, pushed.event)


def pushed_in(body: object, upstream: str) -> Iterator[Pushed]:
    """The tags that were pushed, as far as they have names. Raises RequestError for what has no events."""
    fields = _lower(body)
    is_kraken = isinstance(body, dict) and "Events" in body
    if isinstance(fields.get("events"), list):
        names: Iterator[tuple[str, str]] = map(_of_registry, fields["events"])
    elif isinstance(kind := fields.get("type"), str):
        names = _of_webhook(fields, upstream) if kind in _PUSHES else iter(())
    else:
        raise RequestError("the body has no events")
    for name, event in names:
        try:
            image = parse_image_reference(_renamed(name, upstream)) if name else None
        except P2pdError as error:
            log.info("an event was ignored", reason=str(error))
            continue
        if image is not None and image.tag is not None and image.digest is None:
            yield Pushed(str(image), is_kraken, event)


def _of_registry(event: object) -> tuple[str, str]:
    """The image of an event of distribution, or of Kraken's form, and its `Pushed.event`; "" if it pushes no tag."""
    found = _lower(event)
    target, request = _lower(found.get("target")), _lower(found.get("request"))
    tag, repository = target.get("tag"), target.get("repository")
    if found.get("action") != "push" or not isinstance(tag, str) or not isinstance(repository, str) or not tag:
        return "", ""
    url, host = target.get("url"), request.get("host")
    try:
        named = urlsplit(url).netloc if isinstance(url, str) else ""
    except ValueError:
        named = ""
    image = f"{named or (host if isinstance(host, str) else '')}/{repository}:{tag}"
    return image, _event(target.get("digest"), found.get("timestamp"))


def _of_webhook(fields: Mapping[str, Any], upstream: str) -> Iterator[tuple[str, str]]:
    """The images of a webhook of Harbor, or of a CloudEvent, and their `Pushed.event`."""
    at = fields.get("occur_at") or fields.get("time")
    data = _lower(fields.get("event_data") or fields.get("data"))
    resources = data.get("resources")
    for each in resources if isinstance(resources, list) else ():
        resource = _lower(each)
        url = resource.get("resource_url")
        if isinstance(url, str):
            yield url.partition("://")[2] or url, _event(resource.get("digest"), at)
    name, reference = data.get("name"), data.get("reference")
    if upstream and isinstance(name, str) and isinstance(reference, str):
        yield f"{upstream}/{name}:{reference}", _event(data.get("digest"), at)


def _event(digest: object, at: object) -> str:
    """Short, whatever the event says."""
    said = [digest, at]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest() if digest and at else ""


def _renamed(name: str, upstream: str) -> str:
    """The image under the name that its registry has in images."""
    return f"{upstream}/{name.partition('/')[2]}" if upstream else name


def _lower(value: object) -> dict[str, Any]:
    """Harbor's driver for Kraken writes `Target`, and registries write `target`."""
    return {str(name).lower(): each for name, each in value.items()} if isinstance(value, dict) else {}
