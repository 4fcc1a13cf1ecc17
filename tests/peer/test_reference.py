"""Names from outside: what is accepted, what is refused, and that no text takes long to judge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import InvalidNameError
from peer.oci.digest import Digest
from peer.oci.reference import (
    MAX_REPOSITORY_CHARACTERS,
    ImageReference,
    Repository,
    Tag,
    component_as_host,
    parse_image_reference,
    parse_reference,
    parse_repository_name,
    parse_tag,
    parse_upstream_name,
    upstream_as_component,
)
from tests.support.registry_server import PATIENCE_S

DIGEST = "sha256:" + "0123456789abcdef" * 4
PARSERS = [
    Digest,
    parse_repository_name,
    parse_tag,
    parse_reference,
    parse_upstream_name,
    parse_image_reference,
]


@pytest.mark.parametrize("text", ["a", "library/alpine", "a.b/c_d/e__f/g---h", "0/1", "a" * MAX_REPOSITORY_CHARACTERS])
def test_repositories_of_the_specification_are_accepted(text: str) -> None:
    assert parse_repository_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "A",
        "a..b",
        "a___b",
        "a._b",
        "-a",
        "a-",
        "../a",
        "a/../b",
        "a b",
        "a\n",
        "é",
        "a%2fb",
    ],
)
def test_other_repositories_are_refused(text: str) -> None:
    with pytest.raises(InvalidNameError, match="repository"):
        parse_repository_name(text)


def test_a_repository_that_is_too_long_is_refused_with_its_length() -> None:
    with pytest.raises(InvalidNameError, match="256 characters, more than 255"):
        parse_repository_name("a" * 256)


@pytest.mark.parametrize("text", ["latest", "_", "1.0-rc_2", "A" * 128])
def test_tags_of_the_specification_are_accepted(text: str) -> None:
    assert parse_tag(text) == text


@pytest.mark.parametrize("text", ["", ".a", "-a", "a/b", "a:b", "a" * 129, "a\n", "ä"])
def test_other_tags_are_refused(text: str) -> None:
    with pytest.raises(InvalidNameError, match="1 to 128"):
        parse_tag(text)


def test_a_reference_with_a_colon_is_a_digest_and_any_other_a_tag() -> None:
    assert isinstance(parse_reference(DIGEST), Digest)
    assert not isinstance(parse_reference("latest"), Digest)
    with pytest.raises(InvalidNameError, match="digest"):
        parse_reference("sha256:totallywrong")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("docker.io", "docker.io"),
        ("GHCR.io", "ghcr.io"),
        ("localhost:5000", "localhost:5000"),
        ("10.0.0.1:65535", "10.0.0.1:65535"),
        ("a-b.example", "a-b.example"),
        ("ghcr.io.", "ghcr.io"),
        ("GHCR.io:443", "ghcr.io"),
        ("ghcr.io.:443", "ghcr.io"),
        ("ghcr.io:80", "ghcr.io:80"),
        ("index.docker.io", "docker.io"),
        ("Registry-1.Docker.io.:443", "docker.io"),
    ],
)
def test_an_upstream_has_one_name_however_it_is_written(text: str, expected: str) -> None:
    assert parse_upstream_name(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":5000",
        "a:",
        "a:0",
        "a:65536",
        "a:b",
        "a:1:2",
        "[::1]:5000",
        "::1",
        "a..b",
        "-a",
        "a-",
        "a_b",
        "a/b",
        ".",
        "a..",
        "a.:0",
        "\u212a.example",
        "a" * 64 + ".example",
        ".".join(["a" * 60] * 5),
    ],
)
def test_other_upstreams_are_refused(text: str) -> None:
    with pytest.raises(InvalidNameError, match="upstream"):
        parse_upstream_name(text)


@pytest.mark.parametrize(
    ("text", "component"),
    [
        ("harbor.corp:5001", "harbor.corp__5001"),
        ("10.0.0.7:5000", "10.0.0.7__5000"),
        ("localhost:5000", "localhost__5000"),
        ("a--b.example:1", "a--b.example__1"),
        ("ghcr.io", "ghcr.io"),
    ],
)
def test_an_upstream_with_a_port_is_a_component_that_every_client_can_write(text: str, component: str) -> None:
    assert upstream_as_component(parse_upstream_name(text)) == component
    assert parse_repository_name(f"{component}/app")
    assert component_as_host(component) == text


@pytest.mark.parametrize("component", ["team_5000", "a__b", "a__5000__6000", "a_b__5000", "__5000", "a__", "app"])
def test_other_components_stay_as_they_are(component: str) -> None:
    assert component_as_host(component) == component


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3", "docker.io/library/alpine:3"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine:3", "docker.io/library/alpine:3"),
        ("Registry-1.docker.io/alpine:3", "docker.io/library/alpine:3"),
        ("GHCR.io./org/app:3", "ghcr.io/org/app:3"),
        ("ghcr.io:443/app:3", "ghcr.io/app:3"),
        ("localhost/app", "localhost/app:latest"),
        ("registry.example/a/b/c:tag", "registry.example/a/b/c:tag"),
        (f"host:5000/a/b:tag@{DIGEST}", f"host:5000/a/b:tag@{DIGEST}"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
    ],
)
def test_an_image_is_understood_as_docker_does(text: str, expected: str) -> None:
    image = parse_image_reference(text)

    assert str(image) == expected
    assert parse_image_reference(expected) == image


def test_an_images_digest_decides_over_its_tag() -> None:
    assert parse_image_reference(f"alpine:3@{DIGEST}").reference == DIGEST
    assert parse_image_reference("alpine:3").reference == "3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "alpine:",
        "alpine@",
        ":tag",
        "@" + DIGEST,
        "alpine:a:b",
        "Registry/app",
        "Alpine",
        "a.b/",
        "host:/a",
        f"a@{DIGEST}@{DIGEST}",
        "a/b:c/d",
        "[::1]/a",
        "x" * 2000,
    ],
)
def test_what_is_no_image_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        parse_image_reference(text)


@given(st.sampled_from(PARSERS), st.text() | st.text(alphabet="aA0._-/:@[]%\n é", max_size=300))
def test_any_text_is_accepted_or_refused_and_nothing_else(parse: type, text: str) -> None:
    try:
        parsed = parse(text)
    except InvalidNameError as error:
        assert len(str(error)) < 600  # noqa: PT017 (either way is right; the text of an error must be short)
    else:
        assert ".." not in str(parsed).split("/")
        assert str(parsed).isascii()


@given(
    st.from_regex(r"[a-z0-9-]{1,20}\.[a-z]{2,8}(:[1-9][0-9]{0,3})?", fullmatch=True),
    st.from_regex(r"[a-z0-9]{1,9}([._-][a-z0-9]{1,9}){0,3}(/[a-z0-9]{1,9}){0,3}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True),
)
def test_an_images_text_and_its_parts_are_the_same_thing(host: str, path: str, tag: str) -> None:
    try:
        upstream = parse_upstream_name(host)
    except InvalidNameError:
        return
    image = ImageReference(Repository(upstream, parse_repository_name(path)), Tag(tag), None)

    assert parse_image_reference(str(image)) == image


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("unit", ["a", "a-", "a.", "a/", "_", "-", "a_" * 2 + "-", ":", "@", "a:"])
def test_a_long_text_is_judged_in_linear_time(parse: type, unit: str) -> None:
    with pytest.raises(InvalidNameError):
        parse(unit * 1_000_000 + "!")
