"""The predictions of a scheduler on its admin port. They name images, and so need the daemon's secret.

GET /predictions        for `p2pd predict`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from aiohttp import web

from p2pd.predict.service import HORIZON_S, Answer, Predictions
from p2pd.preheat.request import show_time
from scheduler.core.history import HistoryStoreError

PATH: Final = "/predictions"
MAX_SHOWN: Final = 1000


def predict_routes(service: Callable[[], Predictions | None]) -> list[web.RouteDef]:
    """The route; `service` is None while there is no history."""
    return [web.get(PATH, partial(_show, service))]


async def _show(service: Callable[[], Predictions | None], _: web.Request) -> web.Response:
    predictions = service()
    if predictions is None or predictions.mode == "off":
        error = "this scheduler predicts nothing: set pull_history (for example to 90d) and predict = advise"
        return web.json_response({"error": error}, status=404)
    try:
        return web.json_response(_shown(await predictions.answer(), predictions.mode))
    except HistoryStoreError as error:
        return web.json_response({"error": str(error)}, status=503)


def _shown(answer: Answer, mode: str) -> dict[str, Any]:
    return {
        "mode": mode,
        "within_s": HORIZON_S,
        "learned": answer.learned,
        "records": answer.records,
        "predictions": [asdict(each) for each in answer.predictions[:MAX_SHOWN]],
        "spent_bytes": answer.spent,
        "orders": [
            {
                "preheat": each.job,
                "at": show_time(each.at),
                "image": each.image,
                "site": each.site,
                "size_bytes": each.size_bytes,
                "settled": each.settled,
            }
            for each in answer.orders
        ],
    }
