"""The catalog: what is remembered across restarts, and that a damaged file stops nobody."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.oci.reference import Repository, RepositoryName, Tag, UpstreamName
from proxy.catalog import Catalog, Public
from proxy.core.routing import Endpoint
from tests.support.small_disk import fill, make_read_only, small_disk

HERE = Repository(UpstreamName("docker.io"), RepositoryName("library/app"))
ELSEWHERE = [
    Repository(UpstreamName("docker.io"), RepositoryName("library/other")),
    Repository(UpstreamName("ghcr.io"), RepositoryName("library/app")),
]
LATEST = Tag("latest")
ANN = {UpstreamName("docker.io"): "ann"}
A, B, C, D = (Digest.of(letter) for letter in (b"a", b"b", b"c", b"d"))
MEANING = Descriptor("application/vnd.oci.image.index.v1+json", Digest("sha256:" + "a" * 64), 1234)


def last_known(catalog: Catalog, repository: Repository, tag: Tag) -> Descriptor | None:
    told = catalog.last_told(repository, tag)
    return told.manifest if told else None


def well(catalog: Catalog) -> bool:
    return catalog.is_well


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


def test_tags_are_remembered(path: Path) -> None:
    with closing(Catalog.open(path)) as catalog:
        assert last_known(catalog, HERE, LATEST) is None
        catalog.remember_tag(HERE, LATEST, Descriptor("other", Digest("sha256:" + "b" * 64), 1))
        catalog.remember_tag(HERE, LATEST, MEANING)
    with closing(Catalog.open(path)) as catalog:
        assert last_known(catalog, HERE, LATEST) == MEANING
        assert last_known(catalog, HERE, Tag("other")) is None
        assert [last_known(catalog, repository, LATEST) for repository in ELSEWHERE] == [None, None]


def test_how_long_ago_the_origin_said_it_counts_from_the_last_time(path: Path) -> None:
    with closing(Catalog.open(path)) as catalog:
        catalog.remember_tag(HERE, LATEST, MEANING)
        for seen, least, most in ((time.time() - 100, 100, 200), (time.time() + 1000, 0, 0)):
            catalog._database.execute("UPDATE tags SET seen = ?", (seen,))
            told = catalog.last_told(HERE, LATEST)
            assert told is not None
            assert least <= told.age_s <= most, "a clock that was set back makes no word newer than new"
        catalog._database.execute("UPDATE tags SET seen = 0")
        catalog.remember_tag(HERE, LATEST, MEANING)
        told = catalog.last_told(HERE, LATEST)
        assert told is not None
        assert told.age_s < 100


def test_what_a_repository_has_is_remembered(path: Path) -> None:
    with closing(Catalog.open(path)) as catalog:
        catalog.remember(HERE, Endpoint.BLOB, [A, B, A])
        catalog.remember(HERE, Endpoint.BLOB, [])
    with closing(Catalog.open(path)) as catalog:
        assert catalog.is_known(HERE, Endpoint.BLOB, A)
        assert not catalog.is_known(HERE, Endpoint.BLOB, C)
        assert not any(catalog.is_known(repository, Endpoint.BLOB, A) for repository in ELSEWHERE)
        assert not catalog.is_known(HERE, Endpoint.MANIFEST, A)
        assert not catalog.is_public(HERE, Endpoint.BLOB, A)


def test_what_is_public_is_remembered_until_it_is_not(path: Path) -> None:
    with closing(Catalog.open(path, operators=ANN)) as catalog:
        catalog.remember(HERE, Endpoint.BLOB, [A], Public.EVERYWHERE)
        catalog.remember(HERE, Endpoint.BLOB, [A, B])
        catalog.publish(HERE, Endpoint.BLOB, [B, C], Public.HERE)
    with closing(Catalog.open(path, operators=ANN)) as catalog:
        assert [catalog.is_public(HERE, Endpoint.BLOB, digest) for digest in (A, B, C)] == [True, True, False]
        assert [catalog.is_public_everywhere(digest) for digest in (A, B, C)] == [True, False, False]
        assert not any(catalog.is_public(repository, Endpoint.BLOB, A) for repository in ELSEWHERE)
        catalog.forget_public(HERE, Endpoint.BLOB, A)
        catalog.forget_public(HERE, Endpoint.BLOB, C)
        assert not catalog.is_public(HERE, Endpoint.BLOB, A)
        assert not catalog.is_public_everywhere(A)
        assert catalog.is_known(HERE, Endpoint.BLOB, A)
        assert not catalog.is_known(HERE, Endpoint.BLOB, C)


@pytest.mark.parametrize("operators", [{}, {UpstreamName("docker.io"): "bob"}, {UpstreamName("ghcr.io"): "ann"}])
def test_what_one_users_credentials_opened_is_closed_for_another_user(
    path: Path, operators: dict[UpstreamName, str]
) -> None:
    with closing(Catalog.open(path, operators=ANN)) as catalog:
        catalog.remember(HERE, Endpoint.BLOB, [A], Public.EVERYWHERE)
        catalog.remember(HERE, Endpoint.BLOB, [B], Public.HERE)
        assert catalog.is_public(HERE, Endpoint.BLOB, B)
    for present in (operators, ANN):
        with closing(Catalog.open(path, operators=present)) as catalog:
            assert catalog.is_public(HERE, Endpoint.BLOB, A)
            assert not catalog.is_public(HERE, Endpoint.BLOB, B)
            assert catalog.is_known(HERE, Endpoint.BLOB, B)


def test_no_user_is_in_the_file(path: Path) -> None:
    with closing(Catalog.open(path, operators={UpstreamName("docker.io"): "ann-from-accounting"})):
        found = [file.read_bytes() for file in path.parent.iterdir()]
    assert not any(b"accounting" in content for content in found)


def test_the_oldest_rows_go_when_there_are_too_many(path: Path) -> None:
    with closing(Catalog.open(path, max_known=2)) as catalog:
        catalog.remember(HERE, Endpoint.BLOB, (A, B, C, D))
    with closing(Catalog.open(path, max_known=2)) as catalog:
        assert [digest for digest in (A, B, C, D) if catalog.is_known(HERE, Endpoint.BLOB, digest)] == [C, D]


def test_what_is_public_is_so_at_one_endpoint(path: Path) -> None:
    with closing(Catalog.open(path, operators=ANN)) as catalog:
        catalog.remember(HERE, Endpoint.BLOB, [A], Public.HERE)
        assert not catalog.is_public(HERE, Endpoint.MANIFEST, A)
        catalog.forget_public(HERE, Endpoint.MANIFEST, A)
        assert catalog.is_public(HERE, Endpoint.BLOB, A)


def test_what_an_older_version_took_for_public_is_not_known(path: Path) -> None:
    """It believed the manifests of a repository."""
    with closing(sqlite3.connect(path)) as old:
        old.execute("CREATE TABLE public (upstream TEXT, repository TEXT, digest TEXT)")
        old.execute("INSERT INTO public VALUES (?, ?, ?)", (HERE.upstream, HERE.name, f"blobs/{A}"))
        old.commit()
    with closing(Catalog.open(path)) as catalog:
        assert not catalog.is_known(HERE, Endpoint.BLOB, A)
        assert not catalog.is_public_everywhere(A)


def test_what_is_no_manifest_is_no_tags(path: Path) -> None:
    with closing(Catalog.open(path)) as catalog:
        catalog.remember_tag(HERE, LATEST, MEANING)
        catalog.forget_manifest(ELSEWHERE[0], MEANING.digest)
        assert last_known(catalog, HERE, LATEST) == MEANING
        catalog.forget_manifest(HERE, MEANING.digest)
        assert last_known(catalog, HERE, LATEST) is None


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\x00" + bytes(1000)], ids=["text", "a header alone"]
)
def test_a_damaged_file_is_put_aside(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with closing(Catalog.open(path)) as catalog:
        catalog.remember_tag(HERE, LATEST, MEANING)
        assert last_known(catalog, HERE, LATEST) == MEANING
    assert path.with_suffix(".damaged").read_bytes() == content


@pytest.mark.parametrize("table", ["tags", "known"])
def test_one_of_another_version_is_put_aside(path: Path, table: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"CREATE TABLE {table} (something TEXT)")
    with closing(Catalog.open(path)) as catalog:
        catalog.remember_tag(HERE, LATEST, MEANING)
        catalog.remember(HERE, Endpoint.BLOB, [A], Public.EVERYWHERE)
        assert last_known(catalog, HERE, LATEST) == MEANING
        assert catalog.is_public(HERE, Endpoint.BLOB, A)


def test_damage_that_is_found_later_is_something_that_is_not_known(path: Path) -> None:
    """Pages in the middle: the file opens, and then cannot be read."""
    with closing(Catalog.open(path)) as catalog:
        for number in range(300):
            catalog.remember_tag(HERE, Tag(f"tag-{number}"), MEANING)
    content = bytearray(path.read_bytes())
    page = int.from_bytes(content[16:18], "big")
    content[-8 * page :] = b"\xff" * (8 * page)
    path.write_bytes(content)
    with closing(Catalog.open(path)) as catalog:
        known = [last_known(catalog, HERE, Tag(f"tag-{number}")) for number in range(300)]
        assert set(known) == {None, MEANING}
        assert not path.with_suffix(".damaged").exists()


def test_with_a_directory_in_its_place_nothing_is_known_and_nothing_ends(path: Path) -> None:
    path.mkdir()
    with capture_logs() as logs, closing(Catalog.open(path)) as catalog:
        assert not well(catalog)
        catalog.remember_tag(HERE, LATEST, MEANING)
        assert last_known(catalog, HERE, LATEST) == MEANING, "until the end of this process"
        path.rmdir()
        catalog.try_again()
        assert well(catalog)
        catalog.remember(HERE, Endpoint.BLOB, [A], Public.EVERYWHERE)
    assert [log["event"] for log in logs] == ["the catalog cannot be written for now", "the catalog is written again"]
    with closing(Catalog.open(path)) as catalog:
        assert catalog.is_public(HERE, Endpoint.BLOB, A)


def test_damaged_files_do_not_pile_up_and_leave_no_journal(path: Path) -> None:
    for content in (b"first" * 100, b"second" * 100):
        path.write_bytes(content)
        path.with_name(f"{path.name}-wal").write_bytes(content)
        Catalog.open(path).close()
    assert path.with_suffix(".damaged").read_bytes() == b"second" * 100
    assert sorted(file.name for file in path.parent.iterdir()) == ["catalog.damaged", "catalog.db"]


def test_one_whose_file_is_removed_goes_on_in_a_new_one(path: Path) -> None:
    with closing(Catalog.open(path)) as catalog:
        path.unlink()
        catalog.try_again()
        catalog.remember(HERE, Endpoint.BLOB, [A], Public.EVERYWHERE)
    with closing(Catalog.open(path)) as catalog:
        assert catalog.is_public(HERE, Endpoint.BLOB, A)


@pytest.mark.real
class TestAFullDisk:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        """A small disk, with a catalog on it, that another program has filled."""
        with small_disk(tmp_path / "disk") as disk:
            with closing(Catalog.open(disk / "catalog.db")) as catalog:
                catalog.remember(HERE, Endpoint.BLOB, [A], Public.EVERYWHERE)
            fill(disk)
            yield disk

    def test_the_catalog_is_kept_and_read_and_written_later(self, disk: Path) -> None:
        with closing(Catalog.open(disk / "catalog.db")) as catalog:
            assert not (disk / "catalog.damaged").exists()
            assert catalog.is_public(HERE, Endpoint.BLOB, A)
            catalog.remember(HERE, Endpoint.BLOB, [B], Public.EVERYWHERE)
            assert not well(catalog)
            (disk / "other").unlink()
            catalog.try_again()
            catalog.remember(HERE, Endpoint.BLOB, [B], Public.EVERYWHERE)
            assert well(catalog)
        with closing(Catalog.open(disk / "catalog.db")) as catalog:
            assert catalog.is_public(HERE, Endpoint.BLOB, A)
            assert catalog.is_public(HERE, Endpoint.BLOB, B)

    @pytest.mark.parametrize(("operators", "is_public"), [(ANN, True), ({}, False)])
    def test_what_one_users_credentials_opened_is_closed_though_nothing_can_be_written(
        self, disk: Path, operators: dict[UpstreamName, str], is_public: bool
    ) -> None:
        (disk / "other").unlink()
        with closing(Catalog.open(disk / "catalog.db", operators=ANN)) as catalog:
            catalog.remember(HERE, Endpoint.BLOB, [B], Public.HERE)
        make_read_only(disk)
        with closing(Catalog.open(disk / "catalog.db", operators=operators)) as catalog:
            assert catalog.is_public(HERE, Endpoint.BLOB, A)
            assert catalog.is_public(HERE, Endpoint.BLOB, B) is is_public

    def test_one_with_a_journal_is_not_read_without_it(self, disk: Path) -> None:
        """The journal may have what was taken back."""
        (disk / "other").unlink()
        (disk / "catalog.db-wal").write_bytes(b"x" * 4096)
        make_read_only(disk)
        with closing(Catalog.open(disk / "catalog.db")) as catalog:
            assert not catalog.is_public(HERE, Endpoint.BLOB, A)


def test_a_disk_without_room_is_no_error(path: Path) -> None:
    with closing(Catalog.open(path)) as catalog:
        many = [Digest.of(b"%d" % number) for number in range(5000)]
        catalog._database.execute("PRAGMA max_page_count = 1")  # the least that it can be is what there is
        catalog.remember(HERE, Endpoint.BLOB, many, Public.EVERYWHERE)
        assert not catalog.is_public(HERE, Endpoint.BLOB, many[1])


def test_a_tag_without_a_digest_is_not_known(path: Path) -> None:
    with closing(Catalog.open(path)) as catalog:
        catalog.remember_tag(HERE, LATEST, MEANING)
        catalog._database.execute("UPDATE tags SET digest = 'sha256:short'")
        assert last_known(catalog, HERE, LATEST) is None
