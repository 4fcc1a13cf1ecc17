"""`p2pd cache`, the same through a daemon's admin port and in a directory that no daemon uses."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from p2pd.admin.secret import NAME
from p2pd.cli.app import app
from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.oci.reference import DOCKER_HUB, Repository, RepositoryName, Tag
from peer.store import Store
from peer.store.adopter import Adopter
from proxy.catalog import Catalog
from proxy.core.routing import Endpoint
from tests.p2pd.admin import Admin, serve
from tests.support.images import Image, content_of, digest_of, make_image
from tests.support.registry_server import PATIENCE_S

TTL_S = 1000.0
CONTENTS = (b"first blob", b"second blob")
DIGESTS = tuple(f"sha256:{hashlib.sha256(content).hexdigest()}" for content in CONTENTS)


def opened(directory: Path, elapsed: Callable[[], float] = time.monotonic) -> Store:
    return Store.open(directory, max_bytes=2**20, min_free_bytes=0, ttl_s=TTL_S, elapsed=elapsed)


def fill(store: Store) -> None:
    for digest, content in zip(DIGESTS, CONTENTS, strict=True):
        blob = store.create(digest, len(content), "text/plain")
        blob.land(0, memoryview(content))
        blob.seal()
        blob.release()


def p2pd(*args: str) -> Result:
    return CliRunner().invoke(app, args)


@pytest.fixture
def unused_address() -> Iterator[str]:
    """An address where nothing listens: it is bound, so that nobody else comes to listen there."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@dataclass
class Place:
    """Where the commands find the cache, and the directory that it is in."""

    directory: Path
    flags: tuple[str, ...]
    by_daemon: bool

    def run(self, command: str, *args: str) -> Result:
        return p2pd("cache", command, *self.flags, *args)

    def digests(self) -> list[str]:
        return sorted(blob["digest"] for blob in json.loads(self.run("ls", "--json").stdout))

    def damage(self) -> None:
        """Change a byte of the first blob."""
        name = DIGESTS[0].removeprefix("sha256:")
        (self.directory / "blobs" / name[:2] / name).write_bytes(b"First blob")


@pytest.fixture(params=["daemon", "directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, unused_address: str) -> Iterator[Place]:
    directory = tmp_path / "store"
    now = 0.0
    store = opened(directory, lambda: now)
    try:
        fill(store)
        if request.param == "daemon":
            now += TTL_S + 1
            with serve(Admin(store)) as admin:
                yield Place(directory, ("--admin", admin.address, "--data", str(directory)), by_daemon=True)
        else:
            store.close()
            yield Place(directory, ("--admin", unused_address, "--data", str(directory)), by_daemon=False)
    finally:
        store.close()


def test_ls_has_a_line_for_each_blob(place: Place) -> None:
    result = place.run("ls")
    assert result.exit_code == 0, result.output
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["DIGEST", "SIZE", "HELD", "USED", "STATE", "TYPE", "IMAGE"]
    assert sorted(line.split()[0] for line in lines) == sorted(digest[:19] for digest in DIGESTS)
    assert all(line.split()[2] == "100%" and line.split()[4:] == ["whole", "plain", "-"] for line in lines)


def test_ls_as_json(place: Place) -> None:
    blobs: list[dict[str, Any]] = json.loads(place.run("ls", "--json").stdout)
    assert {blob["digest"]: blob["size_bytes"] for blob in blobs} == dict(zip(DIGESTS, map(len, CONTENTS), strict=True))


def test_rm_takes_a_digest_and_the_beginning_of_one(place: Place) -> None:
    result = place.run("rm", DIGESTS[0], DIGESTS[1].removeprefix("sha256:")[:8], "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"removed": list(DIGESTS), "failed": {}}
    assert place.digests() == []


def test_rm_of_what_is_not_there_fails_and_removes_the_rest(place: Place) -> None:
    result = place.run("rm", "0123456789abcdef", DIGESTS[0])
    assert result.exit_code == 1
    assert result.stdout == f"removed {DIGESTS[0]}\n"
    assert result.stderr == "p2pd: sha256:0123456789abcdef is not in the cache\n"
    assert place.digests() == [DIGESTS[1]]


@pytest.mark.parametrize("digest", ["sha256:", "sha512:0123456789", "../../etc/passwd", "ABCDEF0123", "a@b", ""])
def test_rm_of_what_is_neither_an_image_nor_a_digest_is_misuse(place: Place, digest: str) -> None:
    assert place.run("rm", digest).exit_code == 2


def keep_images(store: Store) -> tuple[Image, Image]:
    """Two images that share a layer; the first has two tags, the second is known by its digest."""
    shared = content_of("shared", 3000)
    first, second = make_image(shared, content_of("mine", 2000)), make_image(shared)
    for image in (first, second):
        for content in (*image.blobs, image.manifest):
            held = store.peek(digest_of(content))
            if held is None:
                blob = store.create(
                    digest_of(content), len(content), image.media_type if content == image.manifest else ""
                )
                blob.land(0, memoryview(content))
                blob.seal()
                blob.release()
    catalog = Catalog.open(store.directory / "catalog.db")
    repository = Repository(DOCKER_HUB, RepositoryName("library/app"))
    for tag in ("1.0", "latest"):
        catalog.remember_tag(repository, Tag(tag), Descriptor(first.media_type, Digest(first.digest), 1))
    catalog.remember_tag(repository, Tag("gone"), Descriptor(first.media_type, Digest(f"sha256:{'0' * 64}"), 1))
    catalog.remember(repository, Endpoint.MANIFEST, [Digest(first.digest), Digest(second.digest)])
    catalog.close()
    return first, second


@pytest.fixture(params=["daemon", "directory"])
def with_images(
    request: pytest.FixtureRequest, tmp_path: Path, unused_address: str
) -> Iterator[tuple[Place, Image, Image]]:
    directory = tmp_path / "store"
    store = opened(directory)
    try:
        images = keep_images(store)
        if request.param == "daemon":
            with serve(Admin(store)) as admin:
                yield Place(directory, ("--admin", admin.address, "--data", str(directory)), by_daemon=True), *images
        else:
            store.close()
            yield Place(directory, ("--admin", unused_address, "--data", str(directory)), by_daemon=False), *images
    finally:
        store.close()


def test_ls_has_the_images_and_kinds_of_blobs(with_images: tuple[Place, Image, Image]) -> None:
    place, first, second = with_images
    rows = {row["digest"]: row["images"] for row in json.loads(place.run("ls", "--json").stdout)}
    names = ["docker.io/library/app:1.0", "docker.io/library/app:latest"]
    by_digest = f"docker.io/library/app@{second.digest}"
    assert rows[first.digest] == rows[digest_of(first.layers[1])] == names
    assert rows[digest_of(first.layers[0])] == [*names, by_digest]
    assert rows[second.digest] == [by_digest]
    lines = {line.split()[0]: line.split()[5:] for line in place.run("ls").stdout.splitlines()}
    assert lines[first.digest[:19]] == ["manifest", names[0], "and", "1", "more"]
    assert lines[digest_of(first.layers[1])[:19]][0] == "layer"
    assert lines[second.digest[:19]] == ["manifest", by_digest]


def test_rm_of_an_image_keeps_what_others_need(with_images: tuple[Place, Image, Image]) -> None:
    place, first, second = with_images
    result = place.run("rm", "app:1.0")
    assert result.exit_code == 1
    assert result.stderr == "p2pd: docker.io/library/app:1.0 is kept: docker.io/library/app:latest needs all of it\n"
    result = place.run("rm", f"app@{second.digest}", "--json")
    assert set(json.loads(result.stdout)["removed"]) == {second.digest, digest_of(second.config)}
    assert place.digests() == sorted(map(digest_of, (*first.blobs, first.manifest)))
    assert place.run("rm", f"other@{first.digest}").exit_code == 1
    assert place.run("rm", f"app@{first.digest}").exit_code == 0
    assert place.digests() == []


def test_rm_of_an_image_that_is_not_cached(place: Place) -> None:
    result = place.run("rm", "alpine", DIGESTS[0])
    assert result.exit_code == 1
    assert result.stderr == "p2pd: docker.io/library/alpine:latest is not in the cache: p2pd cache ls has its images\n"
    assert place.digests() == [DIGESTS[1]]


def test_gc_removes_what_is_old(place: Place) -> None:
    """The blobs are new in the directory, and old by the clock of this test's daemon."""
    result = place.run("gc", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    old = set(DIGESTS) if place.by_daemon else set()
    assert set(found["removed"]) == old
    assert found["freed_bytes"] == (sum(map(len, CONTENTS)) if old else 0)
    assert set(place.digests()) == set(DIGESTS) - old


def test_verify_of_a_cache_that_is_good(place: Place) -> None:
    result = place.run("verify")
    assert (result.exit_code, result.stdout) == (0, "checked 2 blobs, 0 bad\n")


def test_verify_removes_what_is_damaged_and_fails(place: Place) -> None:
    place.damage()
    result = place.run("verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"checked": 2, "bad": [DIGESTS[0]]}
    assert result.stderr == f"p2pd: {DIGESTS[0]} was damaged\n"
    assert place.digests() == [DIGESTS[1]]


def test_the_log_is_no_part_of_the_output(tmp_path: Path, unused_address: str) -> None:
    """In a process of its own, in which nothing else has set the log up."""
    store = opened(tmp_path / "store")
    fill(store)
    store.close()
    name = DIGESTS[0].removeprefix("sha256:")
    (tmp_path / "store/blobs" / name[:2] / name).write_bytes(b"First blob")
    flags = ["--admin", unused_address, "--data", str(tmp_path / "store"), "--config", os.devnull, "--json"]
    argv = [sys.executable, "-m", "p2pd", "cache", "verify", *flags]
    done = subprocess.run(argv, capture_output=True, timeout=PATIENCE_S, check=False)
    assert json.loads(done.stdout) == {"checked": 2, "bad": [DIGESTS[0]]}
    assert b"a blob was lost" in done.stderr


def test_a_beginning_that_two_digests_have_removes_neither(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    try:
        for last in "01":
            store.create(f"sha256:{'ab' * 31}a{last}", 4, "").release()
        with serve(Admin(store)) as admin:
            result = p2pd("cache", "rm", "--admin", admin.address, "--data", str(store.directory), "ab" * 5)
    finally:
        store.close()
    assert result.exit_code == 1
    assert result.stderr == "p2pd: sha256:ababababab is the beginning of 2 digests: give more of it\n"


def test_a_blob_in_use_is_not_removed(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    try:
        fill(store)
        blob = store.acquire(DIGESTS[0])
        assert blob is not None
        with serve(Admin(store)) as admin:
            listed = p2pd("cache", "ls", "--admin", admin.address, "--data", str(store.directory))
            result = p2pd("cache", "rm", "--admin", admin.address, "--data", str(store.directory), DIGESTS[0])
        blob.release()
    finally:
        store.close()
    assert "in use" in listed.stdout
    assert result.exit_code == 1
    assert "is being read or written" in result.stderr


def test_a_directory_that_a_daemon_elsewhere_uses(tmp_path: Path, unused_address: str) -> None:
    store = opened(tmp_path / "store")
    try:
        result = p2pd("cache", "ls", "--admin", unused_address, "--data", str(tmp_path / "store"))
    finally:
        store.close()
    assert result.exit_code == 1
    assert result.stderr.startswith(f"p2pd: no daemon answers at {unused_address}")
    assert result.stderr.endswith(f"a p2pd uses {tmp_path / 'store'} now\n")


def test_a_directory_that_is_no_cache_is_left_as_it_is(tmp_path: Path, unused_address: str) -> None:
    result = p2pd("cache", "gc", "--admin", unused_address, "--data", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.endswith(f"nor is there a cache in {tmp_path}\n")
    assert list(tmp_path.iterdir()) == []


def test_the_secret_is_shown_to_its_own_port_only(tmp_path: Path) -> None:
    """Another program may listen where the daemon is looked for."""
    store = opened(tmp_path / "store")
    other = opened(tmp_path / "other")
    try:
        with serve(Admin(store)) as admin, serve(Admin(other)) as elsewhere:
            result = p2pd("cache", "ls", "--admin", elsewhere.address, "--data", str(store.directory))
            assert result.exit_code == 1
            assert f"its admin port at {admin.address}, not at {elsewhere.address}" in result.stderr
            result = p2pd("cache", "ls", "--admin", admin.address, "--data", str(tmp_path))
            assert result.exit_code == 1
            assert "wants its secret" in result.stderr
            (store.directory / NAME).write_text(f"another\n{admin.address}\n")
            result = p2pd("cache", "ls", "--admin", admin.address, "--data", str(store.directory))
            assert result.exit_code == 1
            assert "did not accept the secret" in result.stderr
    finally:
        store.close()
        other.close()


@pytest.mark.parametrize("by_daemon", [True, False])
def test_what_a_runtime_holds_is_listed_and_never_removed(tmp_path: Path, unused_address: str, by_daemon: bool) -> None:
    content = b"of a runtime"
    digest = Digest.of(content)
    file = tmp_path / "content" / "blobs" / "sha256" / digest.hex
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    config = tmp_path / "p2pd.toml"
    config.write_text(f'adopt = ["{tmp_path / "content"}"]\n')
    store = opened(tmp_path / "store")
    adopter = Adopter(store, [tmp_path / "content"])
    asyncio.run(adopter.look())
    asyncio.run(adopter.read_all())
    flags = ["--data", str(store.directory), "--config", str(config)]
    with serve(Admin(store)) as admin:
        if not by_daemon:
            store.close()
        address = admin.address if by_daemon else unused_address
        listed = p2pd("cache", "ls", "--admin", address, *flags)
        removed = p2pd("cache", "rm", "--admin", address, *flags, digest)
        collected = p2pd("cache", "gc", "--admin", address, *flags)
    store.close()
    assert "adopted" in listed.stdout
    assert (removed.exit_code, "its runtime removes it" in removed.stderr) == (1, True)
    assert collected.stdout.startswith("removed 0 blobs")
    assert file.exists()
