"""Lists of tags and of referrers: what asks for one, whether an answer is one, and the address of its next page."""

from __future__ import annotations

import json
import re
from urllib.parse import urlencode

from proxy.core.routing import Endpoint, Route

PAGE_TAGS = 10_000
"""The tags to ask for at once if a whole list is too long. A tag has at most 128 characters."""

_KEY = {Endpoint.TAGS: "tags", Endpoint.REFERRERS: "manifests"}
_REFERRERS_TAG = re.compile(r"sha256-[0-9a-f]{64}(?:\..+)?")
"""The referrers tag schema of the specification, and cosign's `sha256-<hex>.sig`."""
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_NEXT = re.compile(r"""; *rel="?next\b""", re.IGNORECASE)
_ADDRESS = re.compile(r"[!-~]*")


def lists(route: Route) -> bool:
    """Whether `route` asks for a list: of tags, or of referrers, by their endpoint or by the tag that stands for it."""
    named = route.endpoint is Endpoint.MANIFEST and _REFERRERS_TAG.fullmatch(route.reference) is not None
    return named or route.endpoint in _KEY


def is_list(endpoint: Endpoint, body: bytes) -> bool:
    """Whether `body` is a list of tags, or of referrers. Go programs write an empty list as null."""
    try:
        values = json.loads(body)[_KEY[endpoint]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return values is None or isinstance(values, list)


def origin_query(raw_query: str) -> str:
    """The query for the origin: the client's, without the `ns` that names the upstream."""
    return "&".join(field for field in raw_query.split("&") if field.partition("=")[0] != "ns")


def one_page(query: str) -> str | None:
    """`query` with a number of tags that one answer can hold; None if the client has asked for a number itself."""
    if any(field.partition("=")[0] == "n" for field in query.split("&")):
        return None
    return "&".join(filter(None, (query, f"n={PAGE_TAGS}")))


def next_page(link: str, route: Route, *, named: bool) -> str | None:
    """The Link header of an answer to `route`, by the origin's `link`; None if that names no next page.

    The next page is of the same list, so only the query is the origin's: its address may be absolute, relative, or
    below a path that clients of the mirror do not know. `named`: the client named the upstream by `ns`.
    """
    address = next((each[1].strip(" ") for each in _LINK.finditer(link) if _NEXT.search(each[2])), "")
    if "?" not in address or not _ADDRESS.fullmatch(address):
        return None
    query = origin_query(address.partition("?")[2].partition("#")[0])
    ns = urlencode({"ns": route.upstream}) if named and not route.prefix else ""
    return f'</v2/{route.prefix}{route.origin_path}?{"&".join(filter(None, (query, ns)))}>; rel="next"'
