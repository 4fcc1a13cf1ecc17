"""The API of Dragonfly that Harbor's P2P preheating drives, of 2.12 and later and the one before, and that of Kraken.

    GET  /healthy, /_ping, /health      200
    POST /oapi/v1/jobs                  a preheat begins (Harbor 2.12 and later)
    GET  /oapi/v1/jobs/{number}         PENDING, SUCCESS or FAILURE: Harbor knows no other state
    POST /preheats                      the same (Harbor 2.11 and before)
    GET  /preheats/{id}                 WAITING, RUNNING, SUCCESS or FAILED
    POST /registry/notifications        Kraken; registries and webhooks, too: `p2pd.preheat.notifications`

Harbor shows the token of preheats (`p2pd preheat --token`), as OAUTH or as the password of BASIC. Harbor's own token
for the image comes in the body. It is kept encrypted until the preheat is over, as all credentials are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from aiohttp import web

from p2pd.preheat.api import Handler, Service, id_of, json_body, record_of
from p2pd.preheat.request import RequestError, parse_request, show_time
from peer.errors import InvalidNameError
from peer.oci.reference import parse_image_reference
from scheduler.core.preheat_job import JobState, TargetState
from scheduler.core.preheat_record import JobView, PreheatStoreError, TooManyJobsError

PATHS: Final = ("/healthy", "/_ping", "/health", "/oapi/v1/", "/preheats")
CLUSTER: Final = 1
MAX_BODY_BYTES: Final = 256 * 1024

SCOPES: Final[Mapping[str, str]] = {
    "": "1",
    "single_peer": "1",
    "single_seed_peer": "1",
    "all_seed_peers": "1/site",
    "all_peers": "all",
}
"""The hosts of each scope. p2pd has no seed peers: each host sends to others what it holds."""

_MANIFEST: Final = re.compile(r"/v2/(.+)/manifests/([^/]+)")
_JOB_STATES: Final[Mapping[JobState, str]] = {
    JobState.PENDING: "PENDING",
    JobState.RUNNING: "PENDING",
    JobState.SUCCEEDED: "SUCCESS",
    JobState.PARTLY: "SUCCESS",
    JobState.FAILED: "FAILURE",
    JobState.CANCELLED: "FAILURE",
}
_OLD_STATES: Final[Mapping[JobState, str]] = {
    JobState.PENDING: "WAITING",
    JobState.RUNNING: "RUNNING",
    JobState.SUCCEEDED: "SUCCESS",
    JobState.PARTLY: "SUCCESS",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "FAILED",
}


def harbor_routes(service: Service, clock: Callable[[], float] = time.time) -> list[web.RouteDef]:
    """The routes, which need the token of preheats, or the daemon's secret."""
    harbor = _Harbor(service, clock)
    return [
        *(web.get(path, _healthy) for path in ("/healthy", "/_ping", "/health")),
        web.post("/oapi/v1/jobs", _answering(harbor.create)),
        web.get("/oapi/v1/jobs/{id}", _answering(harbor.show)),
        web.post("/preheats", _answering(harbor.create_old)),
        web.get("/preheats/{id}", _answering(harbor.show_old)),
    ]


def image_of(url: object) -> str:
    """The image whose manifest is at a URL, as `https://harbor.corp/v2/team/app/manifests/v1`. Raises RequestError."""
    try:
        parts = urlsplit(url) if isinstance(url, str) and len(url) <= 2048 else None
        found = _MANIFEST.fullmatch(unquote(parts.path)) if parts is not None else None
        if parts is None or found is None or parts.scheme not in ("http", "https") or "@" in parts.netloc:
            raise ValueError
        host = parts.netloc if "." in parts.netloc or ":" in parts.netloc else f"{parts.netloc}:443"
        image = f"{host}/{found[1]}{'@' if ':' in found[2] else ':'}{found[2]}"
        parse_image_reference(image)
    except (ValueError, InvalidNameError):
        raise RequestError("url: expected that of a manifest: https://HOST/v2/REPOSITORY/manifests/TAG") from None
    return image  # with a port, so that a host without a dot is one


class _Harbor:
    def __init__(self, service: Service, clock: Callable[[], float]) -> None:
        self._service = service
        self._clock = clock

    async def create(self, request: web.Request) -> web.Response:
        body = _object(await json_body(request, MAX_BODY_BYTES), "the body")
        args = _object(body.get("args"), "args")
        if body.get("type") != "preheat" or args.get("type") != "image":
            raise RequestError('type: expected "preheat", and args.type "image"')
        scope = "" if args.get("scope") is None else args["scope"]
        if not isinstance(scope, str) or scope not in SCOPES:
            raise RequestError(f"args.scope: expected one of {', '.join(filter(None, SCOPES))}")
        view = await self._begin(args, SCOPES[scope])
        return web.json_response(_as_job(view, self._clock()))

    async def show(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if not re.fullmatch(r"[0-9]{1,15}", name, re.ASCII):
            return _refused(404, "there is no such job")
        view = await self._preheating(int(name))
        return (
            _refused(404, "there is no such job") if view is None else web.json_response(_as_job(view, self._clock()))
        )

    async def create_old(self, request: web.Request) -> web.Response:
        body = _object(await json_body(request, MAX_BODY_BYTES), "the body")
        if body.get("type") != "image":
            raise RequestError('type: expected "image"')
        view = await self._begin(body, "all")
        return web.json_response({"ID": view.record.id})

    async def show_old(self, request: web.Request) -> web.Response:
        view = await self._preheating(id_of(request))
        if view is None:
            return _refused(404, "there is no such preheat")
        record = view.record
        return web.json_response(
            {
                "ID": record.id,
                "startTime": show_time(record.begins),
                "finishTime": "" if record.finished is None else show_time(record.finished),
                "errorMsg": "" if _OLD_STATES[record.state] != "FAILED" else _reason(view),
                "Status": _OLD_STATES[record.state],
            }
        )

    async def _begin(self, args: Mapping[str, Any], to: str) -> JobView:
        image = image_of(args.get("url"))
        wanted: dict[str, Any] = {"images": [image], "to": to}
        headers = _object({} if args.get("headers") is None else args["headers"], "headers")
        given = next((value for name, value in headers.items() if name.lower() == "authorization"), "")
        if given:
            wanted["credentials"] = {"auths": {image.partition("/")[0]: _credential(given)}}
        now = self._clock()
        request = parse_request(wanted, now)
        service = self._service()
        if service is None:
            raise PreheatStoreError("the scheduler is starting or stopping")
        return await service.add(record_of(request, "harbor", now), credential=request.credentials)

    async def _preheating(self, name: str | int) -> JobView | None:
        service = self._service()
        if service is None:
            raise PreheatStoreError("the scheduler is starting or stopping")
        return await service.job(name)


def _credential(authorization: object) -> dict[str, str]:
    """An entry of docker's config.json. Raises RequestError."""
    scheme, _, value = authorization.partition(" ") if isinstance(authorization, str) else ("", "", "")
    if value and scheme.lower() == "bearer":
        return {"registrytoken": value}
    if value and scheme.lower() == "basic":
        return {"auth": value}
    raise RequestError("headers: Authorization is to be Basic or Bearer")


def _as_job(view: JobView, now: float) -> dict[str, Any]:
    record = view.record
    url = _url_of(record.order.images[0])
    state = _JOB_STATES[record.state]
    done = [{"url": url, "hostname": each.host, "ip": ""} for each in view.targets if each.state is TargetState.DONE]
    failed = [
        {"url": url, "hostname": each.host, "ip": "", "description": each.reason}
        for each in view.targets
        if each.state in (TargetState.FAILED, TargetState.UNSUPPORTED, TargetState.CANCELLED)
    ]
    results = [{"success_tasks": done, "failure_tasks": failed, "scheduler_cluster_id": CLUSTER}]
    told = [] if state == "PENDING" else [{"error": _reason(view) if state == "FAILURE" else "", "results": results}]
    return {
        "id": record.number,
        "created_at": show_time(record.created),
        "updated_at": show_time(record.finished or now),
        "type": "preheat",
        "state": state,
        "result": {"job_states": told},
    }


def _reason(view: JobView) -> str:
    """Why a preheat has failed, in one line: its own reason, or that of the first host that has one."""
    reasons = (f"{each.host}: {each.reason}" for each in view.targets if each.reason)
    return view.record.reason or next(reasons, "") or "it failed"


def _url_of(image: str) -> str:
    parsed = parse_image_reference(image)
    return f"https://{parsed.repository.upstream}/v2/{parsed.repository.name}/manifests/{parsed.reference}"


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{name} is to be a JSON object")
    return value


async def _healthy(_: web.Request) -> web.Response:
    return web.json_response({"healthy": True})


def _refused(status: int, error: str) -> web.Response:
    """As Dragonfly: Harbor shows the whole body."""
    return web.json_response({"errors": error}, status=status)


def _answering(handler: Handler) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except RequestError as error:
            return _refused(422, str(error))
        except TooManyJobsError as error:
            return _refused(429, str(error))
        except PreheatStoreError as error:
            return _refused(503, str(error))

    return answer
