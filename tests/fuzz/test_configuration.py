"""Whatever an operator, a tool or an image's author wrote: it is understood, or a clear error, and never slowly."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pd.config.settings import KEYS
from p2pd.config.sources import load
from p2pd.config.upstream import make_upstreams
from p2pd.config.upstream_setting import parse_upstream
from p2pd.config.values import ConfigError, parse_networks
from p2pd.pull.docker_config import Login, docker_login
from peer.errors import P2pdError
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.oci.documents import as_json, image_index
from peer.oci.manifest import parse_manifest
from peer.oci.reference import UpstreamName, parse_image_reference
from peer.origin.api import ContentRef, Kind
from peer.origin.headers import content_length, content_range, retry_after_s
from peer.origin.layout import LayoutOrigin
from peer.origin.www_authenticate import parse_challenges
from peer.trust.piece_keys import PieceKeys, PieceRequest, UnauthenticatedError
from proxy.core.accept import accepts
from proxy.core.conditional import not_modified
from proxy.core.host_header import is_for_us
from proxy.core.lists import next_page
from proxy.core.ranges import parse_ranges
from proxy.core.routing import parse_route
from scheduler.trust.errors import TrustError
from scheduler.trust.identity import parse_uri
from scheduler.trust.token import parse_token
from tests.fuzz.wire import damaged, pieces
from tests.peer.origin_fixtures import NOBODY
from tests.support.images import content_of, digest_of, make_image

HUB = UpstreamName("docker.io")
HUBS = frozenset({HUB})
EXPECTED = (P2pdError, TrustError, UnauthenticatedError)

# -- files of configuration --------------------------------------------------------------------------------------------

WORDS = pieces(
    "docker.io", "=", "https://", "http://", "127.0.0.1", ":1", "[::1]", ",", "*", "ca=/x", "10 GiB", "5m", "/", "-"
)
SIMPLE = WORDS | st.integers() | st.floats() | st.booleans()
TOML_VALUES = st.one_of(
    SIMPLE, SIMPLE, st.lists(SIMPLE, max_size=3), st.dates(), st.dictionaries(WORDS, SIMPLE, max_size=2)
)


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value)
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
        case _:
            return str(value)


TOML = st.dictionaries(st.sampled_from([*KEYS, *KEYS, "nonsense", "a.b"]), TOML_VALUES, max_size=4).map(
    lambda table: "\n".join(f"{key} = {_toml(value)}" for key, value in table.items()).encode("utf-8", "replace")
)


@given(content=damaged(TOML))
def test_any_file_gives_settings_or_lines_that_say_what_is_wrong(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "p2pd.toml"
    file.write_bytes(content)
    with suppress(ConfigError):
        for origin in make_upstreams(load({}, {}, file=file)).values():
            origin.close()


@given(
    content=damaged(
        st.dictionaries(
            st.sampled_from(["auths", "credsStore", "x"]),
            st.dictionaries(
                st.sampled_from(["docker.io", "https://index.docker.io/v1/", "ghcr.io"]),
                st.dictionaries(st.just("auth"), st.sampled_from(["bWU6cHc=", "bWU=", "!", "/w==", ""]) | st.none())
                | st.none()
                | st.integers(),
                max_size=2,
            )
            | st.text(max_size=3)
            | st.lists(st.integers(), max_size=2),
        ).map(lambda document: json.dumps(document).encode())
    )
)
def test_any_config_of_docker_has_a_login_or_none(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "config.json").write_bytes(content)
    assert isinstance(docker_login("docker.io", {"DOCKER_CONFIG": str(folder)}), Login | None)


# -- OCI layouts -------------------------------------------------------------------------------------------------------

IMAGE = make_image(content_of("layer", 3000))
NAMES = ({"org.opencontainers.image.ref.name": "1.0"}, {"io.containerd.image.name": "docker.io/library/app:1.0"})


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layout") / "layout"
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for content in (IMAGE.manifest, *IMAGE.blobs):
        (blobs / digest_of(content).hex).write_bytes(content)
    named = [
        as_json(Descriptor(IMAGE.media_type, IMAGE.digest, len(IMAGE.manifest)), annotations=names) for names in NAMES
    ]
    (directory / "index.json").write_text(json.dumps(image_index(named)))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


@settings(max_examples=60)
@given(data=st.data())
def test_any_layout_has_answers_or_errors(
    layout: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(layout, directory)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    file = data.draw(st.sampled_from([*files, directory / "index.json"]).map(lambda path: path.relative_to(directory)))
    whole = (directory / file).read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    (directory / file).write_bytes(whole[:at] + data.draw(damaged(st.just(whole[at : at + 400]))) + whole[at + 400 :])
    origin = LayoutOrigin(directory, upstream="docker.io")
    view = memoryview(bytearray(4000))
    for path in (
        "",
        "app/manifests/1.0",
        "app/tags/list?n=1",
        f"app/referrers/{IMAGE.digest}",
        f"app/manifests/{IMAGE.digest}",
    ):
        with suppress(P2pdError):
            assert 200 <= origin.request("GET", path, credential=NOBODY).status < 500
    for content, kind in ((IMAGE.manifest, Kind.MANIFEST), (IMAGE.blobs[-1], Kind.BLOB)):
        with (
            suppress(P2pdError),
            origin.open(ContentRef("app", digest_of(content), kind), 0, None, credential=NOBODY) as body,
        ):
            assert body.readinto(view) == body.stop
    origin.close()


# -- what is long ------------------------------------------------------------------------------------------------------

PARSERS: dict[str, Callable[[str], Any]] = {
    "challenges": parse_challenges,
    "content-range": content_range,
    "content-length": content_length,
    "retry-after": lambda text: retry_after_s(text, 1e9),
    "range": parse_ranges,
    "accept": lambda text: accepts(text, "application/json"),
    "if-none-match": lambda text: not_modified(text, "sha256:" + "a" * 64),
    "host": lambda text: is_for_us([text], frozenset({"localhost"})),
    "link": lambda text: next_page(text, parse_route("GET", "/v2/app/tags/list", None, None, HUBS, HUB), named=True),
    "path": lambda text: parse_route("GET", f"/v2/{text}", None, None, HUBS, HUB),
    "ns": lambda text: parse_route("GET", "/v2/", text, None, HUBS, HUB, any_host=True),
    "digest": AnyDigest,
    "image": parse_image_reference,
    "manifest": lambda text: parse_manifest(text.encode("utf-8", "replace")),
    "upstream": parse_upstream,
    "networks": parse_networks,
    "token": parse_token,
    "uri": parse_uri,
    "authorization": lambda text: PieceKeys(lambda: 0.0, plain=False).authenticate(PieceRequest("GET", "/", ""), text),
}
UNITS = pieces(
    '"', "\\", "a", "=", ",", " ", "\t", ";", "rel=next", "<", ">", "bytes=", "0-", "/", ":", "@", ".", "-", "_", "*/*",
    "[", "{", '{"a":', "sha256:", "0", "%", "https://", "Bearer ", most=4,
)  # fmt: skip


@pytest.mark.parametrize("name", list(PARSERS))
@settings(max_examples=30)
@given(begin=UNITS, unit=UNITS, end=UNITS)
@example(begin="", unit="<", end="")  # of a Link header
def test_64_kib_of_anything_are_read_in_no_time(name: str, begin: str, unit: str, end: str) -> None:
    """By the processor's time of this thread, and with a bound that only what is not linear comes near."""
    text = begin + unit * ((64 << 10) // max(1, len(unit))) + end
    before = time.thread_time()
    with suppress(*EXPECTED):
        PARSERS[name](text)
    assert time.thread_time() - before < 2.0
