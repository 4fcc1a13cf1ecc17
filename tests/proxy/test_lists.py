"""Lists of tags and of referrers: what is one, and where the next page is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.oci.digest import Digest
from proxy.core.lists import PAGE_TAGS, is_list, lists, next_page, one_page, origin_query
from proxy.core.routing import Endpoint
from tests.proxy.direct import route

TAGS = route("library/app", "latest", Endpoint.TAGS)
HERE = "/v2/library/app/tags/list"


@pytest.mark.parametrize(
    ("endpoint", "reference", "expected"),
    [
        (Endpoint.TAGS, "latest", True),
        (Endpoint.REFERRERS, Digest.of(b"a"), True),
        (Endpoint.MANIFEST, Digest.of(b"a").replace(":", "-"), True),
        (Endpoint.MANIFEST, Digest.of(b"a").replace(":", "-") + ".sig", True),
        (Endpoint.MANIFEST, Digest.of(b"a"), False),
        (Endpoint.MANIFEST, "latest", False),
        (Endpoint.MANIFEST, "sha256-abc", False),
        (Endpoint.BLOB, Digest.of(b"a"), False),
    ],
)
def test_what_asks_for_a_list(endpoint: Endpoint, reference: str, expected: bool) -> None:
    assert lists(route("library/app", reference, endpoint)) is expected


@pytest.mark.parametrize(
    ("body", "tags", "referrers"),
    [
        (b'{"name": "a", "tags": ["1"]}', True, False),
        (b'{"name": "a", "tags": null}', True, False),
        (b'{"schemaVersion": 2, "manifests": []}', False, True),
        (b'{"manifests": null}', False, True),
        (b"{}", False, False),
        (b'{"tags": "1", "manifests": {}}', False, False),
        (b'{"errors": [{"code": "DENIED"}]}', False, False),
        (b"<html>sign in</html>", False, False),
        (b"[]", False, False),
        (b"null", False, False),
        (b'"tags"', False, False),
        (b"", False, False),
        (b"\xff", False, False),
        (b"[" * 100_000, False, False),
        (b'{"tags": ["1"', False, False),
    ],
)
def test_what_is_a_list(body: bytes, tags: bool, referrers: bool) -> None:
    assert is_list(Endpoint.TAGS, body) is tags
    assert is_list(Endpoint.REFERRERS, body) is referrers


@pytest.mark.parametrize(
    ("link", "query"),
    [
        ('</v2/library/app/tags/list?last=b&n=2>; rel="next"', "last=b&n=2"),
        ('<https://r.example/prefix/v2/library/app/tags/list?last=b>; rel="next"', "last=b"),
        ("<?last=b>; rel=next", "last=b"),
        ("< ?last=b >; rel=next", "last=b"),
        ('<list?last=%C3%A9%26>; rel="next"', "last=%C3%A9%26"),
        ('</v2/x/tags/list?last=b&ns=other>; type="x"; rel="next"', "last=b"),
        ('</v2/x?first>; rel="prev", </v2/x?last=b>; rel="next"', "last=b"),
        ('</v2/x/tags/list>; rel="next"', None),
        ('</v2/x?last=b>; rel="prev"', None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_the_next_page(link: str, query: str | None) -> None:
    assert next_page(link, TAGS, named=False) == (None if query is None else f'<{HERE}?{query}>; rel="next"')


def test_the_next_page_names_the_upstream_as_the_client_did() -> None:
    link = '</v2/library/app/tags/list?last=b>; rel="next"'
    assert next_page(link, TAGS, named=True) == f'<{HERE}?last=b&ns=docker.io>; rel="next"'
    prefixed = route("library/app", "latest", Endpoint.TAGS, prefix="docker.io/")
    assert next_page(link, prefixed, named=False) == '</v2/docker.io/library/app/tags/list?last=b>; rel="next"'


def test_the_next_page_of_referrers() -> None:
    referrers = route("library/app", Digest.of(b"a"), Endpoint.REFERRERS)
    link = next_page('<?artifactType=a%2Fb&token=x>; rel="next"', referrers, named=False)
    assert link == f'</v2/library/app/referrers/{Digest.of(b"a")}?artifactType=a%2Fb&token=x>; rel="next"'


@given(st.text(alphabet='<>?;,= relnxt"/&\n', max_size=60))
def test_any_link_is_read(link: str) -> None:
    found = next_page(link, TAGS, named=False)
    assert found is None or (found.startswith(f"<{HERE}?") and found.isprintable())


@pytest.mark.parametrize(
    ("raw", "query", "page"),
    [
        ("", "", f"n={PAGE_TAGS}"),
        ("ns=docker.io", "", f"n={PAGE_TAGS}"),
        ("last=b&ns=docker.io", "last=b", f"last=b&n={PAGE_TAGS}"),
        ("n=5&last=b", "n=5&last=b", None),
    ],
)
def test_queries(raw: str, query: str, page: str | None) -> None:
    assert origin_query(raw) == query
    assert one_page(query) == page
