"""What p2pd keeps is for its own user: whatever the umask was, and whoever made the directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.errors import ForeignDirectoryError
from peer.store import Store
from proxy.catalog import Catalog
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry

IMAGE = make_image(content_of("layer", 100_000))
NOBODY = 65534


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def opened(directory: Path) -> Store:
    return Store.open(directory, max_bytes=2**20, min_free_bytes=0, ttl_s=0)


def modes(directory: Path) -> dict[str, int]:
    paths = (directory, *directory.rglob("*"))
    return {str(path.relative_to(directory)): stat.S_IMODE(path.lstat().st_mode) for path in paths}


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("made_by", ["p2pd", "the operator"])
@asynchronous
async def test_nobody_else_reads_what_is_kept(registry: ImageRegistry, tmp_path: Path, made_by: str) -> None:
    registry.push("library/app", "1.0", IMAGE)
    data = tmp_path / "data"
    if made_by == "the operator":
        data.mkdir()
        data.chmod(0o755)
    async with node_at(data, f"docker.io={registry.url}", advertise="127.0.0.1:0") as node:
        assert (await node.get("library/app/manifests/1.0")).status == 200
        assert (await node.get(f"library/app/blobs/{digest_of(IMAGE.layers[0])}")).status == 200
        found = modes(data)
    assert {"catalog.db", "catalog.db-wal", "host-id", "p2pd-store", "lock", "admin-secret"} < found.keys()
    for name, mode in found.items():
        assert mode == (0o700 if (data / name).is_dir() else 0o600), name


def test_a_catalog_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    Catalog.open(path).close()
    path.chmod(0o644)
    Catalog.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_catalog_that_is_a_link_is_neither_written_nor_read(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    (tmp_path / "catalog.db").symlink_to(target)
    Catalog.open(tmp_path / "catalog.db").close()
    assert not target.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory away")
class TestDirectoryOfAnotherUser:
    def test_it_is_refused(self, tmp_path: Path) -> None:
        data, target = tmp_path / "data", tmp_path / "elsewhere"
        data.mkdir()
        os.chown(data, NOBODY, NOBODY)
        (data / "p2pd-store").symlink_to(target)
        with pytest.raises(ForeignDirectoryError, match="belongs to the user 65534"):
            opened(data)
        assert not target.exists()
        assert [path.name for path in data.iterdir()] == ["p2pd-store"]

    @pytest.mark.parametrize(("mode", "works"), [(0o755, True), (0o2775, True), (0o1777, True), (0o777, False)])
    def test_roots_is_taken_unless_every_user_may_write_to_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, works: bool
    ) -> None:
        data = tmp_path / "data"
        data.mkdir()
        data.chmod(mode)
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        if works:
            opened(data).close()
        else:
            with pytest.raises(ForeignDirectoryError, match="every user may write"):
                opened(data)
