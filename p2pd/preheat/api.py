"""The API of preheats, on the admin port of a scheduler. `p2pd.openapi.preheats` describes it.

    POST /api/v1/preheats               a preheat begins: 201; 200 for an Idempotency-Key that has one already
    GET  /api/v1/preheats               the newest first, without their hosts
    GET  /api/v1/preheats/{id}          with a result for each host
    POST /api/v1/preheats/{id}/cancel
    POST /api/v1/preheats/{id}/retry    the hosts that failed, or were away, are told again

Every answer is JSON; an error is `{"error": "what happened and what to do", "problems": [...]}`.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Final

from aiohttp import web

from p2pd.preheat.request import MAX_BODY_BYTES, PreheatRequest, RequestError, parse_request, show_time
from scheduler.core.preheat_job import Order, Target, TargetState
from scheduler.core.preheat_record import JobRecord, JobView, PreheatService, PreheatStoreError, TooManyJobsError
from scheduler.shell.preheating import new_id

PREFIX: Final = "/api/v1"
MAX_LISTED: Final = 1000
_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
_ID: Final = re.compile(r"[a-z0-9]{1,32}", re.ASCII)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Service = Callable[[], PreheatService | None]
"""None while the scheduler starts or stops."""


def record_of(request: PreheatRequest, source: str, now: float) -> JobRecord:
    """A new job. Hosts that are away are waited for from its beginning on."""
    begins = max(now, request.at or now)
    order = Order(new_id(), request.images, request.platforms, request.rate_bytes_per_s, request.ttl_s)
    return JobRecord(order, request.to, now, begins, begins + request.within_s, source, request.window)


def preheat_routes(service: Service, clock: Callable[[], float] = time.time) -> list[web.RouteDef]:
    """The routes, which need the daemon's secret, or the token of preheats."""
    api = _Api(service, clock)
    jobs = f"{PREFIX}/preheats"
    return [
        web.post(jobs, answering(api.create)),
        web.get(jobs, answering(api.list, "limit")),
        web.get(f"{jobs}/{{id}}", answering(api.show)),
        web.post(f"{jobs}/{{id}}/cancel", answering(api.cancel)),
        web.post(f"{jobs}/{{id}}/retry", answering(api.retry)),
    ]


def answering(handler: Handler, *parameters: str) -> Handler:
    """Makes the errors of a handler answers; the query may have these parameters."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            unknown = [name for name in request.query if name not in parameters]
            if unknown:
                raise RequestError(f"{unknown[0][:40]!a}: there is no such parameter")
            return await handler(request)
        except RequestError as error:
            return refused(422, str(error), problems=list(error.problems))
        except TooManyJobsError as error:
            return refused(429, str(error))
        except PreheatStoreError as error:
            return refused(503, str(error))

    return answer


def refused(status: int, error: str, **more: object) -> web.Response:
    return web.json_response({"error": error, **more}, status=status)


async def json_body(request: web.Request, most_bytes: int = MAX_BODY_BYTES) -> Any:
    """Raises RequestError."""
    body = bytearray()
    async for part in request.content.iter_chunked(64 * 1024):
        body += part
        if len(body) > most_bytes:
            raise RequestError(f"the body is longer than {most_bytes} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError("the body is no JSON") from None


class _Api:
    def __init__(self, service: Service, clock: Callable[[], float]) -> None:
        self._service = service
        self._clock = clock

    async def create(self, request: web.Request) -> web.Response:
        key = request.headers.get("Idempotency-Key")
        if key is not None and not _KEY.fullmatch(key):
            raise RequestError("Idempotency-Key: expected 1 to 128 visible ASCII characters")
        now = self._clock()
        wanted = parse_request(await json_body(request), now)
        record = record_of(wanted, "api", now)
        view = await self._preheating().add(record, key=key, credential=wanted.credentials)
        is_new = view.record.id == record.id
        if not is_new and not _is_same(view.record, record):
            return refused(422, "this Idempotency-Key has another preheat: give each its own", problems=[])
        headers = {"Location": f"{PREFIX}/preheats/{view.record.id}"}
        return web.json_response(shown(view), status=201 if is_new else 200, headers=headers)

    async def list(self, request: web.Request) -> web.Response:
        text = request.query.get("limit", "100")
        if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or not 1 <= int(text) <= MAX_LISTED:
            raise RequestError(f"limit: expected a number from 1 to {MAX_LISTED}")
        records = await self._preheating().jobs(int(text))
        return web.json_response([facts_of(record) for record in records])

    async def show(self, request: web.Request) -> web.Response:
        return _found(await self._preheating().job(id_of(request)))

    async def cancel(self, request: web.Request) -> web.Response:
        return _found(await self._preheating().cancel(id_of(request)))

    async def retry(self, request: web.Request) -> web.Response:
        return _found(await self._preheating().retry(id_of(request)))

    def _preheating(self) -> PreheatService:
        service = self._service()
        if service is None:
            raise PreheatStoreError("the scheduler is starting or stopping: try again in a moment")
        return service


def id_of(request: web.Request) -> str:
    """The id of a preheat in the path; "", which none has, if it is none."""
    name = request.match_info["id"]
    return name if _ID.fullmatch(name) else ""


def _found(view: JobView | None) -> web.Response:
    if view is None:
        return refused(404, "there is no such preheat: GET /api/v1/preheats has all")
    return web.json_response(shown(view))


def _is_same(kept: JobRecord, asked: JobRecord) -> bool:
    return (replace(kept.order, id=""), kept.to, kept.window) == (replace(asked.order, id=""), asked.to, asked.window)


def facts_of(record: JobRecord) -> dict[str, Any]:
    """A job without its hosts."""
    order = record.order
    return {
        "id": record.id,
        "number": record.number,
        "state": record.state.name.lower(),
        "reason": record.reason,
        "images": list(order.images),
        "to": list(record.to) if len(record.to) <= 16 else [*record.to[:16], f"and {len(record.to) - 16} more"],
        "platforms": list(order.platforms),
        "rate_bytes_per_s": order.rate_bytes_per_s,
        "ttl_s": order.ttl_s,
        "window": record.window,
        "source": record.source,
        "created": show_time(record.created),
        "begins": show_time(record.begins),
        "ends": show_time(record.ends),
        "finished": None if record.finished is None else show_time(record.finished),
        "pinned_until": None if record.pinned_until is None else show_time(record.pinned_until),
        "newcomers_until": None if record.newcomers_until is None else show_time(record.newcomers_until),
    }


def shown(view: JobView) -> dict[str, Any]:
    """A job, by site and with each host."""
    sites: dict[str, list[Target]] = {}
    for target in view.targets:
        sites.setdefault(target.site, []).append(target)
    return {
        **facts_of(view.record),
        "hosts": _counts(view.counts),
        "sites": [
            {
                "site": site,
                **_counts(Counter(target.state for target in targets)),
                "size_bytes": sum(target.size_bytes for target in targets),
                "fetched_bytes": sum(target.fetched_bytes for target in targets),
            }
            for site, targets in sorted(sites.items())
        ],
        "results": [
            {
                "host": target.host,
                "site": target.site,
                "state": target.state.name.lower(),
                "attempt": target.attempt,
                "reason": target.reason,
                "size_bytes": target.size_bytes,
                "fetched_bytes": target.fetched_bytes,
                "unpinned_bytes": target.unpinned_bytes,
                "confirmed": target.confirmed,
            }
            for target in sorted(view.targets, key=lambda target: target.host)
        ],
    }


def _counts(counts: Counter[TargetState]) -> dict[str, int]:
    return {state.name.lower(): counts[state] for state in TargetState}
