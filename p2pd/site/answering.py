"""How a node answers to an import: what the body of the request may be, and what is said of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from p2pd.config.preheat_rules import PreheatRule
from p2pd.config.values import ConfigError
from p2pd.preheat.api import Handler, answering, json_body, refused
from p2pd.site.importing import SiteError, SiteImport

MAX_IMAGES = 10_000


def answers(importing: SiteImport, rules: Callable[[], Sequence[PreheatRule]]) -> Handler:
    """The handler of the page. `rules` are those in force."""

    async def take_in(request: web.Request) -> web.Response:
        path, images, keep = asked(await json_body(request))
        try:
            found = await importing.run(path, images, keep, rules())
        except SiteError as error:
            return refused(400, str(error))
        return web.json_response([dataclasses.asdict(each) for each in found])

    return answering(take_in)


def asked(body: Any) -> tuple[Path, list[str], str]:
    """What a body asks for: an archive, images of it, and for how long. Raises ConfigError."""
    said = body if isinstance(body, dict) else {}
    path, images, keep = said.get("path"), said.get("images", []), said.get("keep", "7d")
    is_path = isinstance(path, str) and path.startswith("/") and "\0" not in path and _is_name(path)
    are_images = (
        isinstance(images, list) and len(images) <= MAX_IMAGES and all(isinstance(each, str) for each in images)
    )
    if not is_path or not are_images or not isinstance(keep, str):
        raise ConfigError("expected path (absolute), images (a list of names), and keep (a duration)")
    return Path(str(path)), images, keep


def _is_name(path: str) -> bool:
    """Whether a file can have this name: JSON has texts that no encoding has."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True
