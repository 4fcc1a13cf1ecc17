"""`p2pd site export` and `import`: images that are carried from one node to another, and hostile archives."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2pd.cli.app import app
from p2pd.config.preheat_rules import parse_preheat_rules
from p2pd.config.values import ConfigError
from p2pd.demo.process import command
from p2pd.pull.layout_writer import CONTAINERD_NAME, REF_NAME, LayoutWriter
from p2pd.site.answering import asked
from p2pd.site.archive import MAX_HEADER_BYTES, MAX_NAMES_BYTES, TarArchive, listing_of, open_archive
from p2pd.site.exporting import images_of_rules
from peer.errors import ManifestError
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.oci.manifest import OCI_IMAGE
from tests.support.daemon_process import ForkedDaemon
from tests.support.images import Image, content_of, make_image
from tests.support.registry import ImageRegistry

MIB = 1 << 20
NAME = "reg.test/team/app:v1"


class Node:
    """A node by itself. A call is `p2pd site` on its machine."""

    def __init__(self, directory: Path, registry: str, *, rules: str = "") -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory / "node"
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self.config = directory / "p2pd.toml"
        self.config.write_text(rules)
        flags = {
            "config": self.config,
            "data": self.directory,
            "mirror": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "upstream": f"reg.test={registry}",
            "min-free-bytes": 0,
        }
        self.daemon = ForkedDaemon(directory, command("run", flags))
        self._ready = self.daemon.wait_for_event("ready")

    def __call__(self, *words: str) -> Result:
        where = ["--admin", self._ready["admin"], "--data", str(self.directory), "--config", str(self.config)]
        return CliRunner().invoke(app, ["site", *words, *where, "--mirror", self._ready["mirror"]])

    def cached(self) -> list[dict[str, object]]:
        where = ["--admin", self._ready["admin"], "--data", str(self.directory)]
        found: list[dict[str, object]] = json.loads(CliRunner().invoke(app, ["cache", "ls", "--json", *where]).output)
        return found

    def digest_of_tag(self) -> str:
        with self.daemon.get("/v2/team/app/manifests/v1?ns=reg.test") as answer:
            return str(answer.headers["Docker-Content-Digest"])


@pytest.fixture
def image(registry: ImageRegistry) -> Image:
    made = make_image(content_of("layer", 2 * MIB), content_of("small", 1000))
    registry.push("team/app", "v1", made)
    return made


def carried(image: Image, directory: Path) -> Path:
    """A layout with the image, as an export writes it."""
    writer = LayoutWriter(directory)
    for content in (*image.blobs, image.manifest):
        writer.write(content)
    named = Descriptor(OCI_IMAGE, AnyDigest(image.digest), len(image.manifest))
    writer.name(named, {CONTAINERD_NAME: NAME, REF_NAME: "v1"})
    return directory


def test_an_image_is_carried(tmp_path: Path, registry: ImageRegistry, image: Image) -> None:
    rules = '[[preheat]]\nmatch = "reg.test/team/*:v*"\nkeep = "30d"\n'
    here = Node(tmp_path / "here", registry.url, rules=rules)
    there = Node(tmp_path / "there", "http://127.0.0.1:1", rules=rules)
    directory, tar = tmp_path / "carried", tmp_path / "carried.tar"
    try:
        for to in (directory, tar):
            first, again = here("export", str(to), NAME, "--json"), here("export", str(to), "--rules", "--json")
            assert (first.exit_code, again.exit_code) == (0, 0), first.output + again.output
            manifest_bytes = json.loads(again.output)["images"][0]["new_bytes"]
            assert manifest_bytes < 2000 < MIB < json.loads(first.output)["images"][0]["new_bytes"], "only differences"
        assert not list(tmp_path.glob("*.partial"))
        before = registry.sent.total()
        for source, is_new in ((tar, True), (directory, False)):
            taken = there("import", str(source), "--json")
            assert taken.exit_code == 0, taken.output
            done = json.loads(taken.output)["images"][0]
            assert (done["image"], done["digest"], done["blobs"]) == (NAME, image.digest, 4)
            assert bool(done["new_bytes"]) is is_new
        assert there.digest_of_tag() == image.digest, "though no origin has said so, and serve_stale_tags is off"
        for digest, content in zip(image.layer_digests, image.blobs[1:], strict=True):
            with there.daemon.get(f"/v2/team/app/blobs/{digest}?ns=reg.test") as answer:
                assert answer.read() == content
        held = there.cached()
        assert all(float(str(blob["pinned_s"])) > 29 * 86_400 for blob in held), "as the rule says"
        assert all(blob["images"] == [NAME] for blob in held)
        assert registry.sent.total() == before
    finally:
        here.daemon.close()
        there.daemon.close()


def test_what_is_wrong_with_an_archive_is_said(tmp_path: Path, registry: ImageRegistry, image: Image) -> None:
    source = carried(image, tmp_path / "carried")
    index, layer = source / "index.json", source / "blobs" / "sha256" / image.layer_digests[0].removeprefix("sha256:")
    newer = make_image(content_of("newer", 1000))
    registry.push("team/app", "v1", newer)
    node = Node(tmp_path / "node", registry.url)

    def refused(*words: str) -> str:
        done = node("import", str(source), *words)
        assert done.exit_code in (1, 2), done.output
        return done.output

    try:
        content = layer.read_bytes()
        layer.write_bytes(content[:-1] + b"x")
        assert "have another SHA-256" in refused()
        layer.write_bytes(content[:-1])
        assert f"has {len(content) - 1} bytes" in refused()
        layer.unlink()
        assert "not in the archive" in refused()
        layer.symlink_to("/etc/passwd")
        assert "cannot be read" in refused()
        assert not any(NAME in str(blob["images"]) for blob in node.cached()), "no name before all of it is here"
        layer.unlink()
        layer.write_bytes(content)
        assert "quay.io/other:v1 is not in it; it has reg.test/team/app:v1" in refused("quay.io/other:v1")
        assert "duration" in refused("--keep", "x")
        listed = index.read_text()
        index.write_text(listed.replace("reg.test", "quay.io"))
        assert "quay.io is no upstream of this node" in refused()
        index.write_text(listed.replace(f"{NAME}", "app"))
        assert "have no full name" in refused()
        index.write_text(listed)
        assert node("import", str(source)).exit_code == 0, "what was wrong is fetched anew"
        assert node.digest_of_tag() == newer.digest, "what the origin says counts as soon as it says something"
    finally:
        node.daemon.close()


def test_an_archive_opens_nothing_that_it_does_not_have(tmp_path: Path, registry: ImageRegistry, image: Image) -> None:
    node = Node(tmp_path / "node", registry.url)
    layer = image.layer_digests[0]
    try:
        assert node("export", str(tmp_path / "cached"), NAME).exit_code == 0, "all of it is in the cache now"
        source = carried(image, tmp_path / "carried")
        index = source / "index.json"
        index.write_text(index.read_text().replace(NAME, "reg.test/other/thing:v1"))
        taken = source / "blobs" / "sha256" / layer.removeprefix("sha256:")
        content = taken.read_bytes()
        for wrong, said in (
            (None, "is here already"),
            (content[:-1] + b"x", "another SHA-256"),
            (content[:-1], f"has {len(content) - 1} bytes"),
        ):
            taken.unlink() if wrong is None else taken.write_bytes(wrong)
            refused = node("import", str(source))
            assert refused.exit_code == 1, refused.output
            assert said in refused.output
        registry.stop()
        assert node.daemon.get(f"/v2/other/thing/blobs/{layer}?ns=reg.test").status >= 400
        taken.write_bytes(content)
        done = node("import", str(source))
        assert done.exit_code == 0, done.output
        assert node.daemon.get(f"/v2/other/thing/blobs/{layer}?ns=reg.test").read() == content
    finally:
        node.daemon.close()


def test_the_images_of_rules() -> None:
    rules = parse_preheat_rules(["reg.test/team/*:v*", "alpine:3"])
    cached = ["reg.test/team/b:v2", "reg.test/team/a:v1", "reg.test/other:v1", f"reg.test/team/a@sha256:{'0' * 64}"]
    assert images_of_rules(rules, cached) == ["docker.io/library/alpine:3", "reg.test/team/a:v1", "reg.test/team/b:v2"]


# -- hostile archives --------------------------------------------------------------------------------------------------

Writes = Callable[[tarfile.TarFile], None]


def _file(tar: tarfile.TarFile, name: str, content: bytes, **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def _link(tar: tarfile.TarFile) -> None:
    _file(tar, "blobs/sha256/aa", b"", type=tarfile.SYMTYPE, linkname="/etc/shadow")


def _device(tar: tarfile.TarFile) -> None:
    _file(tar, "blobs/sha256/aa", b"", type=tarfile.CHRTYPE)


def _out(tar: tarfile.TarFile) -> None:
    _file(tar, "blobs/../../etc/passwd", b"x")


def _absolute(tar: tarfile.TarFile) -> None:
    _file(tar, "/etc/passwd", b"x")


def _huge_header(tar: tarfile.TarFile) -> None:
    _file(tar, "x", b"\0" * (MAX_HEADER_BYTES + 512), type=tarfile.XHDTYPE)


def _headers_of_headers(tar: tarfile.TarFile) -> None:
    for _ in range(MAX_HEADER_BYTES // 1024 // 2):
        _file(tar, "x", b"a", type=tarfile.GNUTYPE_LONGNAME)


def _many_headers_of_a_file(tar: tarfile.TarFile) -> None:
    for _ in range(3):
        _file(tar, "x", b"a" * (MAX_HEADER_BYTES // 2), type=tarfile.GNUTYPE_LONGNAME)


def _long_names(tar: tarfile.TarFile) -> None:
    for _ in range(MAX_NAMES_BYTES // 900_000 + 1):
        _file(tar, "x", b"a" * 900_000, type=tarfile.GNUTYPE_LONGNAME)
        _file(tar, "folder", b"", type=tarfile.DIRTYPE)


def _holes(tar: tarfile.TarFile) -> None:
    member = tarfile.TarInfo("blobs/sha256/aa")
    member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1"}
    tar.addfile(member)


@pytest.mark.parametrize(
    ("writes", "said"),
    [
        (_link, "is a link, a device, or has holes"),
        (_device, "is a link, a device, or has holes"),
        (_holes, "is a link, a device, or has holes"),
        (_out, "leads out of it"),
        (_absolute, "leads out of it"),
        (_huge_header, "at most 1048576 are read"),
        (_headers_of_headers, "is no plain tar"),
        (_many_headers_of_a_file, "at most 1048576 are read"),
        (_long_names, "names have more than"),
    ],
)
def test_a_hostile_tar_is_refused(tmp_path: Path, writes: Writes, said: str) -> None:
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        _file(tar, "oci-layout", b"{}")
        writes(tar)
    with pytest.raises(ManifestError, match=said):
        TarArchive(path)


def test_a_tar_of_many_folders_takes_no_memory_for_them(tmp_path: Path) -> None:
    path = tmp_path / "folders.tar"
    folder = tarfile.TarInfo("x")
    folder.type = tarfile.DIRTYPE
    path.write_bytes(folder.tobuf() * 20_000 + bytes(1024))
    tracemalloc.start()
    try:
        TarArchive(path).close()
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ManifestError, match="is no file and no directory"):
        open_archive(tmp_path / "pipe")


def test_a_tar_that_was_not_copied_whole(tmp_path: Path) -> None:
    path = tmp_path / "half.tar"
    with tarfile.open(path, "w") as tar:
        _file(tar, "oci-layout", b"x" * 5000)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ManifestError, match="was it copied whole"):
        TarArchive(path)


def test_a_length_below_nothing_is_no_endless_loop(tmp_path: Path) -> None:
    member = tarfile.TarInfo("oci-layout")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # base 256: -512
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "back.tar"
    path.write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(ManifestError):
        TarArchive(path)


def test_what_is_no_tar_and_what_is_compressed(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(ManifestError, match="is no plain tar"):
        TarArchive(path)
    with tarfile.open(path, "w:gz") as tar:
        _file(tar, "oci-layout", b"{}")
    with pytest.raises(ManifestError, match="unpack what is compressed"):
        TarArchive(path)


def test_a_directory_that_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="it has no file oci-layout"):
        open_archive(tmp_path)
    (tmp_path / "oci-layout").write_text("{}")
    with pytest.raises(ManifestError, match=r"it has no index\.json"):
        listing_of(open_archive(tmp_path))
    (tmp_path / "index.json").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match=r"."):
        listing_of(open_archive(tmp_path))


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"path": "carried"},
        {"path": "/a\0b"},
        {"path": 5},
        {"path": "/x", "images": "app"},
        {"path": "/x", "images": [5]},
        {"path": "/x", "images": ["a"] * 10_001},
        {"path": "/x", "keep": 7},
    ],
)
def test_what_the_daemon_is_not_asked(body: object) -> None:
    with pytest.raises(ConfigError, match="expected path"):
        asked(body)
