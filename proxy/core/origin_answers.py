"""What an origin's answer says of a client's right to some content. Most failures say nothing of it.

| word | means | the mirror |
|---|---|---|
| GIVES | the client may have it | serves it, and remembers that for a while |
| REFUSES | the client may not have it | relays the refusal, with its challenge |
| ABSENT | the repository does not have it | relays the refusal |
| SAYS_NOTHING | it is limited or broken, or a portal answers | serves what is held and public, as if it were gone |

Rules:
1. Only a refusal or an absence takes back that content is public. 451 does not: it is about the place of the asker.
2. A refusal by a redirect's target says nothing: the registry had let the request pass.
3. A HEAD that is refused without a challenge, or whose headers cannot be used, decides nothing. GET decides.
"""

from __future__ import annotations

from enum import Enum

from peer.errors import OriginRefusedError, P2pdError
from peer.oci.descriptor import Descriptor
from peer.oci.manifest import is_manifest_type


class Word(Enum):
    """What an answer says."""

    GIVES = "gives"
    REFUSES = "refuses"
    ABSENT = "absent"
    SAYS_NOTHING = "says nothing"


_BY_STATUS = {
    200: Word.GIVES,
    401: Word.REFUSES,
    403: Word.REFUSES,
    404: Word.ABSENT,
    410: Word.ABSENT,
    451: Word.REFUSES,
}
"""Every other status says nothing. 206 is not here: a small answer is asked for whole."""

_GET_DECIDES = frozenset({400, 403, 404, 405, 501})
"""Registries without HEAD answer so, and proxy caches that have not fetched the content yet."""

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Another request at once would fare no better."""

_LASTING = frozenset({401, 403, 404, 410})

_OF_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_OF_TEXTS = _OF_PAGES | {"application/xml", "text/plain", "text/xml"}
"""With JSON, the types of pages and of error messages. A blob may have the latter, so its digest or its length has to
show that it is the blob."""


def word_of(status: int, *, redirected: bool = False) -> Word:
    """What a status says. `redirected`: it came from a redirect's target."""
    word = _BY_STATUS.get(status, Word.SAYS_NOTHING)
    return Word.SAYS_NOTHING if redirected and word is not Word.GIVES else word


def word_of_error(error: P2pdError) -> Word:
    """What the error of a request to an origin says. An answer that cannot be used says nothing."""
    if isinstance(error, OriginRefusedError):
        return word_of(error.status, redirected=error.redirected)
    return Word.SAYS_NOTHING


def takes_back_public(error: P2pdError) -> bool:
    """Whether `error`, at a request that anyone could make, says that the content is not for anyone (rule 1)."""
    lasting = isinstance(error, OriginRefusedError) and error.status in _LASTING
    return lasting and word_of_error(error) is not Word.SAYS_NOTHING


def get_decides(status: int, *, redirected: bool = False) -> bool:
    """Whether GET is to be asked after a HEAD whose headers gave no descriptor (rules 2 and 3)."""
    return status < 400 or status in _GET_DECIDES or (redirected and status not in _PASSING)


def shows_manifest(found: Descriptor) -> bool:
    """Whether `found`, from the headers of a 200 that name its digest, is a manifest's."""
    return is_manifest_type(found.media_type) and found.size_bytes > 0


def shows_blob(found: Descriptor, known_bytes: int | None, *, named: bool) -> bool:
    """Whether `found`, from the headers of a 200, is that blob's, and not a page's in its place.

    `known_bytes` is the blob's length, if it is held whole. `named`: the headers have its digest.
    """
    if found.media_type in _OF_PAGES or (known_bytes is not None and found.size_bytes != known_bytes):
        return False
    is_text = found.media_type in _OF_TEXTS or found.media_type.endswith("json")
    return known_bytes is not None or named or not is_text
