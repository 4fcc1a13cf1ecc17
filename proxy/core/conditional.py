"""Conditional requests (RFC 9110, section 13). The entity tag of content is its digest in quotes, as docker-registry's.

Content that is named by its digest never changes, so a weak comparison is as good as a strong one.
"""

from __future__ import annotations

import re

_ENTITY_TAG = re.compile(r'(?:W/)?"([^"]*)"|([^\s,"]+)')


def not_modified(if_none_match: str | None, digest: str) -> bool:
    """Whether the client has this content: the answer is 304. docker-registry takes a digest without quotes too."""
    if if_none_match is None:
        return False
    tags = [quoted or bare for quoted, bare in _ENTITY_TAG.findall(if_none_match)]
    return digest in tags or if_none_match.strip() == "*"


def range_applies(if_range: str | None, digest: str) -> bool:
    """Whether a Range is to be answered: always without If-Range. A date never matches, as content has none here."""
    return if_range is None or if_range.strip() == f'"{digest}"'
