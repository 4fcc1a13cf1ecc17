"""Routing: whatever a client sends is an endpoint of one configured upstream, or a refusal that clients understand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.oci.digest import Digest
from peer.oci.reference import (
    MAX_REPOSITORY_CHARACTERS,
    Repository,
    UpstreamName,
    parse_reference,
    parse_repository_name,
)
from proxy.core.oci_errors import Code
from proxy.core.routing import NO_NAME, Endpoint, Route, RouteError, parse_route

HUB, GHCR, LOCAL = UpstreamName("docker.io"), UpstreamName("ghcr.io"), UpstreamName("localhost:5000")
UPSTREAMS = frozenset({HUB, GHCR, LOCAL})
DIGEST = "sha256:" + "0123456789abcdef" * 4
BLOB = f"/v2/library/app/blobs/{DIGEST}"


def route(path: str, ns: str | None = None, header: str | None = None, method: str = "GET") -> Route:
    return parse_route(method, path, ns, header, UPSTREAMS, HUB)


def refused(path: str, ns: str | None = None, header: str | None = None, method: str = "GET") -> tuple[int, Code]:
    with pytest.raises(RouteError) as caught:
        route(path, ns, header, method)
    assert str(caught.value).isprintable()
    return caught.value.status, caught.value.code


class TestEndpoints:
    @pytest.mark.parametrize("path", ["/v2/", "/v2"])
    def test_ping(self, path: str) -> None:
        assert route(path) == Route(Endpoint.PING, Repository(HUB, NO_NAME))
        assert route(path, ns="ghcr.io").upstream == GHCR
        assert route(path).origin_path == ""

    @pytest.mark.parametrize(
        ("path", "endpoint", "repository", "reference"),
        [
            ("/v2/team/app/manifests/latest", Endpoint.MANIFEST, "team/app", "latest"),
            (f"/v2/library/app/manifests/{DIGEST}", Endpoint.MANIFEST, "library/app", DIGEST),
            (BLOB, Endpoint.BLOB, "library/app", DIGEST),
            ("/v2/a/b/c/tags/list", Endpoint.TAGS, "a/b/c", ""),
            (f"/v2/library/app/referrers/{DIGEST}", Endpoint.REFERRERS, "library/app", DIGEST),
            # Names that look like endpoints are names nevertheless: the last two components decide.
            (f"/v2/blobs/manifests/blobs/{DIGEST}", Endpoint.BLOB, "blobs/manifests", DIGEST),
            ("/v2/tags/list/tags/list", Endpoint.TAGS, "tags/list", ""),
            ("/v2/app/blobs/uploads/manifests/latest", Endpoint.MANIFEST, "app/blobs/uploads", "latest"),
            (f"/v2/app/blobs/uploads-old/blobs/{DIGEST}", Endpoint.BLOB, "app/blobs/uploads-old", DIGEST),
            # An escape that need not be one.
            (f"/v2/library/%61pp/blobs/{DIGEST.replace(':', '%3A')}", Endpoint.BLOB, "library/app", DIGEST),
        ],
    )
    def test_what_is_asked_for(self, path: str, endpoint: Endpoint, repository: str, reference: str) -> None:
        found = route(path)
        assert (found.endpoint, found.repository.name, found.reference) == (endpoint, repository, reference)
        assert f"/v2/{found.origin_path}" == path.replace("%61", "a").replace("%3A", ":")

    @pytest.mark.parametrize(
        ("path", "refusal"),
        [
            ("/v2/app/manifests/.INVALID_MANIFEST_NAME", (404, Code.MANIFEST_UNKNOWN)),  # the conformance suite
            ("/v2/app/manifests/sha256:totallywrong", (404, Code.MANIFEST_UNKNOWN)),
            ("/v2/app/manifests/", (404, Code.MANIFEST_UNKNOWN)),
            ("/v2/app/blobs/sha256:totallywrong", (400, Code.DIGEST_INVALID)),
            ("/v2/app/blobs/latest", (400, Code.DIGEST_INVALID)),
            ("/v2/app/blobs/", (400, Code.DIGEST_INVALID)),
            (f"/v2/app/blobs/{DIGEST.upper()}", (400, Code.DIGEST_INVALID)),
            (f"/v2/app/blobs/md5:{'0' * 32}", (400, Code.DIGEST_INVALID)),
            ("/v2/app/referrers/sha256:totallywrong", (400, Code.DIGEST_INVALID)),
            ("/v2/App/manifests/latest", (400, Code.NAME_INVALID)),
            (f"/v2/{'a' * (MAX_REPOSITORY_CHARACTERS + 1)}/tags/list", (400, Code.NAME_INVALID)),
            ("/v2//tags/list", (404, Code.UNSUPPORTED)),
            ("/v2/_catalog", (404, Code.UNSUPPORTED)),
            ("/v2/app", (404, Code.UNSUPPORTED)),
            ("/v2/app/tags", (404, Code.UNSUPPORTED)),
            ("/v1/app/tags/list", (404, Code.UNSUPPORTED)),
            ("/", (404, Code.UNSUPPORTED)),
            ("", (404, Code.UNSUPPORTED)),
            ("*", (404, Code.UNSUPPORTED)),
        ],
    )
    def test_what_is_not(self, path: str, refusal: tuple[int, Code]) -> None:
        assert refused(path) == refusal


class TestPush:
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "get", ""])
    @pytest.mark.parametrize("path", [BLOB, "/v2/", "/v2/app/manifests/latest", "/v2/app/blobs/uploads/", "/elsewhere"])
    def test_no_other_method(self, method: str, path: str) -> None:
        assert refused(path, method=method) == (405, Code.UNSUPPORTED)

    @pytest.mark.parametrize("path", ["uploads", "uploads/", "uploads/5f0c", "uploads/sha256:ab"])
    def test_no_state_of_an_upload(self, path: str) -> None:
        assert refused(f"/v2/app/blobs/{path}") == (405, Code.UNSUPPORTED)


class TestUpstream:
    def test_ns_goes_before_the_header_that_before_the_prefix_that_before_the_default(self) -> None:
        path = f"/v2/docker.io/library/app/blobs/{DIGEST}"
        both = route(path, ns="ghcr.io", header="localhost:5000")
        assert (both.upstream, both.repository.name, both.prefix) == (GHCR, "docker.io/library/app", "")
        header = route(path, header="localhost:5000")
        assert (header.upstream, header.repository.name, header.prefix) == (LOCAL, "docker.io/library/app", "")
        prefix = route(f"/v2/localhost:5000/app/blobs/{DIGEST}")
        assert (prefix.upstream, prefix.repository.name, prefix.prefix) == (LOCAL, "app", "localhost:5000/")
        default = route(BLOB)
        assert (default.upstream, default.repository.name, default.prefix) == (HUB, "library/app", "")

    def test_what_is_empty_names_nothing(self) -> None:
        assert route(BLOB, ns="", header="").upstream == HUB
        assert route(BLOB, ns="", header="ghcr.io").upstream == GHCR

    @pytest.mark.parametrize(
        ("name", "upstream"),
        [
            ("index.docker.io", HUB),
            ("registry-1.docker.io", HUB),
            ("docker.io", HUB),
            ("Docker.IO", HUB),
            ("docker.io.", HUB),
            ("docker.io:443", HUB),
            ("GHCR.io", GHCR),
            ("ghcr.io.", GHCR),
            ("ghcr.io:443", GHCR),
            ("ghcr.io.:443", GHCR),
            ("LocalHost:5000", LOCAL),
        ],
    )
    def test_however_it_is_written(self, name: str, upstream: UpstreamName) -> None:
        for found in (route(BLOB, ns=name), route(BLOB, header=name)):
            assert (found.upstream, found.repository.name, found.renamed) == (upstream, "library/app", False)
        by_prefix = route(f"/v2/{name}/library/app/blobs/{DIGEST}")
        assert (by_prefix.upstream, by_prefix.repository.name) == (upstream, "library/app")
        assert (by_prefix.prefix, by_prefix.renamed) == (f"{name}/", True)
        assert route("/v2/", ns=name).upstream == upstream

    @pytest.mark.parametrize(
        "prefix", ["harbor.corp:5001", "harbor.corp%3A5001", "harbor.corp__5001", "Harbor.Corp__5001"]
    )
    def test_one_with_a_port(self, prefix: str) -> None:
        harbor = UpstreamName("harbor.corp:5001")
        path = f"/v2/{prefix}/app/tags/list"
        found = parse_route("GET", path, None, None, frozenset({HUB, harbor}), HUB)
        assert (found.upstream, found.repository.name) == (harbor, "app")
        assert refused(path) == (404, Code.NAME_UNKNOWN)

    def test_what_is_like_a_port_belongs_to_the_name_if_no_upstream_is_called_so(self) -> None:
        assert route("/v2/team__5000/app/tags/list").repository.name == "team__5000/app"

    @pytest.mark.parametrize("ns", [None, "docker.io", "index.docker.io"])
    @pytest.mark.parametrize("prefix", ["", "docker.io/", "index.docker.io/", "registry-1.docker.io/"])
    def test_library_is_implied_on_docker_hub(self, ns: str | None, prefix: str) -> None:
        found = route(f"/v2/{prefix}alpine/manifests/3", ns=ns)
        assert (found.upstream, found.repository.name, found.prefix) == (HUB, "library/alpine", prefix)
        assert found.origin_path == "library/alpine/manifests/3"
        assert found.renamed
        assert route("/v2/alpine/tags/list", header="docker.io").repository.name == "library/alpine"

    def test_library_is_implied_nowhere_else(self) -> None:
        assert route("/v2/app/tags/list", ns="ghcr.io").repository.name == "app"
        assert route("/v2/ghcr.io/app/tags/list").repository.name == "app"
        assert parse_route("GET", "/v2/app/tags/list", None, None, frozenset({GHCR}), GHCR).repository.name == "app"
        assert route("/v2/team/app/tags/list").repository.name == "team/app"

    @pytest.mark.parametrize("ns", ["docker.io", "quay.io"])
    def test_a_mirror_whose_url_has_a_path(self, ns: str) -> None:
        """containerd with `override_path`: what its URL names goes before an `ns` that can mean nothing there."""
        found = route("/v2/ghcr.io/project/library/alpine/manifests/3", ns=ns)
        assert (found.upstream, found.repository.name, found.prefix) == (GHCR, "project/library/alpine", "ghcr.io/")
        assert refused("/v2/quay.example/library/alpine/manifests/3", ns="quay.io") == (404, Code.NAME_UNKNOWN)

    @pytest.mark.parametrize("name", ["registry.example", "localhost:5001", "ghcr.io.evil.example", "127.0.0.1:80"])
    def test_an_unknown_one(self, name: str) -> None:
        assert refused(BLOB, ns=name) == (404, Code.NAME_UNKNOWN)
        assert refused(BLOB, header=name) == (404, Code.NAME_UNKNOWN)
        assert refused(f"/v2/{name}/library/app/blobs/{DIGEST}") == (404, Code.NAME_UNKNOWN)

    @pytest.mark.parametrize("name", ["http://ghcr.io", "ghcr.io/app", "..", "ghcr.io:", "a b", "ghcr.io\r\n", "[::1]"])
    def test_no_name(self, name: str) -> None:
        assert refused(BLOB, ns=name) == (400, Code.NAME_INVALID)
        assert refused(BLOB, header=name) == (400, Code.NAME_INVALID)

    def test_a_first_component_that_cannot_be_a_host_belongs_to_the_name(self) -> None:
        assert route("/v2/localhost/app/tags/list").repository.name == "localhost/app"

    def test_an_upstream_alone_is_no_repository(self) -> None:
        assert route("/v2/ghcr.io/tags/list").repository.name == "library/ghcr.io"  # as in any other registry


class TestAnyHost:
    def any_route(self, path: str, ns: str | None = None, header: str | None = None) -> Route:
        return parse_route("GET", path, ns, header, UPSTREAMS, HUB, any_host=True)

    @pytest.mark.parametrize("name", ["quay.io", "Quay.io.", "quay.io:443"])
    def test_it_is_an_upstream(self, name: str) -> None:
        assert self.any_route(BLOB, ns=name).upstream == "quay.io"
        assert self.any_route(BLOB, header=name).upstream == "quay.io"
        assert self.any_route("/v2/", ns=name).upstream == "quay.io"
        assert self.any_route(f"/v2/{name}/app/tags/list").repository == Repository(
            UpstreamName("quay.io"), parse_repository_name("app")
        )

    @pytest.mark.parametrize(
        ("first", "upstream"),
        [("localhost", "localhost"), ("harbor__5001", "harbor:5001"), ("10.0.0.7:5000", "10.0.0.7:5000")],
    )
    def test_in_a_path_it_is_what_docker_takes_for_a_host(self, first: str, upstream: str) -> None:
        assert self.any_route(f"/v2/{first}/app/tags/list").upstream == upstream

    @pytest.mark.parametrize("first", ["team", "a_b", "team_5000"])
    def test_what_is_no_host_belongs_to_the_name(self, first: str) -> None:
        assert self.any_route(f"/v2/{first}/app/tags/list").repository.name == f"{first}/app"

    def test_ns_goes_before_the_path(self) -> None:
        assert self.any_route("/v2/quay.io/app/tags/list", ns="ghcr.io").repository.name == "quay.io/app"

    def test_what_is_no_name_is_refused(self) -> None:
        for path, ns in (("/v2/a_b.example/app/tags/list", None), ("/v2/a/tags/list", "a/b")):
            with pytest.raises(RouteError):
                self.any_route(path, ns=ns)


class TestDishonestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/v2/library%2fapp/tags/list",
            "/v2/library%2Fapp/tags/list",
            "/v2/a%5cb/tags/list",
            "/v2/a%00/tags/list",
            "/v2/a%252e%252e/tags/list",
            "/v2/..%2f..%2fetc/tags/list",
            f"/v2/app/blobs/..%2f{DIGEST}",
        ],
    )
    def test_an_encoded_separator(self, path: str) -> None:
        assert refused(path) == (400, Code.NAME_INVALID)

    @pytest.mark.parametrize("name", ["..", "a/../b", "../../etc", "%2e%2e/%2e%2e/etc", "a/%2e/b", ".", "a//b", "a/"])
    def test_dots_and_empty_components(self, name: str) -> None:
        assert refused(f"/v2/{name}/tags/list")[0] in (400, 404)
        assert refused(f"/v2/{name}/blobs/{DIGEST}", ns="ghcr.io")[0] in (400, 404)


_PARTS = st.sampled_from(
    [
        *(
            "/",
            "v2",
            "library",
            "app",
            "..",
            ".",
            "%2e%2e",
            "%2f",
            "%5C",
            "%00",
            "%25",
            "%",
            "%zz",
            "%c3%28",
            "%0a",
            "//",
        ),
        *(
            "manifests",
            "blobs",
            "referrers",
            "tags",
            "list",
            "uploads",
            "latest",
            DIGEST,
            "sha256:",
            "docker.io",
            "ghcr.io",
        ),
        *("localhost:5000", "?", "#", "\n", "\x00", "\ud800", "é", "a" * 300),
    ]
)
_PATHS = st.one_of(
    st.text(max_size=60),
    st.lists(_PARTS, max_size=12).map("".join),
    st.lists(_PARTS, max_size=8).map(lambda parts: "/v2/" + "/".join(parts)),
    st.tuples(st.lists(_PARTS, max_size=4).map("/".join), st.sampled_from(["blobs", "manifests", "referrers"])).map(
        lambda made: f"/v2/{made[0]}/{made[1]}/{DIGEST}"
    ),
)
_NAMES = st.one_of(st.none(), st.text(max_size=20), _PARTS)


def route_or_error(method: str, path: str, ns: str | None, header: str | None) -> Route | RouteError:
    try:
        return route(path, ns, header, method)
    except RouteError as error:
        return error


@given(method=st.sampled_from(["GET", "HEAD", "PUT"]), path=_PATHS, ns=_NAMES, header=_NAMES)
def test_anything_is_a_safe_route_or_a_refusal(method: str, path: str, ns: str | None, header: str | None) -> None:
    found = route_or_error(method, path, ns, header)
    if isinstance(found, RouteError):
        assert 400 <= found.status < 500
        assert len(str(found)) < 400
        assert str(found).isprintable()
        return
    assert method != "PUT"
    assert found.upstream in UPSTREAMS
    if found.endpoint is Endpoint.PING:
        return
    assert parse_repository_name(found.repository.name) == found.repository.name
    assert ".." not in found.repository.name.split("/")
    if found.endpoint is Endpoint.MANIFEST:
        assert parse_reference(found.reference) == found.reference
    elif found.endpoint is not Endpoint.TAGS:
        assert Digest(found.reference) == found.reference
    # What the origin is asked for is what was understood: it reads the same way there.
    if found.upstream == HUB and found.repository.name.startswith(("docker.io/", "ghcr.io/")):
        return  # the second of two names of upstreams
    assert parse_route("GET", f"/v2/{found.origin_path}", found.upstream, None, UPSTREAMS, HUB).origin_path == (
        found.origin_path
    )
