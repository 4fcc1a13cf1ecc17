"""Whatever is in p2pd's directory: p2pd starts or says why not, serves no wrong byte, and touches nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.admin.secret import NAME, NoSecretError, read_secret
from p2pd.config.values import Address
from p2pd.daemon.host_id import host_id
from peer.errors import StoreError
from peer.oci.descriptor import Descriptor
from peer.oci.reference import Repository, RepositoryName, Tag, UpstreamName
from peer.trust.identity_files import IdentityFiles
from proxy.catalog import Catalog, Public
from proxy.core.routing import Endpoint
from scheduler.trust.authority import Authority
from scheduler.trust.errors import TrustError
from tests.fuzz.wire import damaged
from tests.peer.store_fixtures import a_store, hold, hold_part, open_store
from tests.support.images import content_of, digest_of

WHOLE, PART, TINY = content_of("whole", 600_000), content_of("part", 600_000), b"tiny"
PLACE = Repository(UpstreamName("docker.io"), RepositoryName("library/app"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all that p2pd keeps."""
    directory = tmp_path_factory.mktemp("template") / "data"
    with a_store(directory) as store:
        hold(store, WHOLE)
        hold(store, TINY)
        hold_part(store, PART, [0, 2])
        with closing(Catalog.open(directory / "catalog.db")) as catalog:
            catalog.remember_tag(PLACE, Tag("1.0"), Descriptor("", digest_of(TINY), len(TINY)))
            catalog.publish(PLACE, Endpoint.BLOB, [digest_of(TINY)], Public.EVERYWHERE)
        host_id(directory / "host-id")
        (directory / NAME).write_text("secret\n127.0.0.1:65001\n")
        authority = Authority.open(directory / "scheduler", time.time(), lifetime_s=3600.0)
        authority.create_token(note="", ttl_s=None, uses=None, now=time.time())
        authority.close()
        identity = IdentityFiles(directory, name="a")
        identity.credentials()
    return directory


def spoil(directory: Path, data: st.DataObject) -> None:
    """Do something to one of the files."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    file = data.draw(st.sampled_from(files), label="file")
    match data.draw(st.sampled_from(["damage", "damage", "damage", "cut", "gone", "folder", "link", "pipe"])):
        case "damage":
            whole = file.read_bytes()
            at = data.draw(st.integers(0, max(0, len(whole) - 1)))
            file.write_bytes(whole[:at] + data.draw(damaged(st.just(whole[at : at + 400]))) + whole[at + 400 :])
        case "cut":
            os.truncate(file, data.draw(st.integers(0, file.stat().st_size)))
        case what:
            file.unlink()
            if what == "folder":
                file.mkdir()
            elif what == "link":
                file.symlink_to(directory / data.draw(st.sampled_from(["nowhere", "host-id", "clock"])))
            elif what == "pipe":
                os.mkfifo(file)


@settings(max_examples=40)
@given(data=st.data())
def test_a_directory_that_was_spoilt(
    template: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("spoilt") / "data"
    shutil.copytree(template, directory)
    for _ in range(data.draw(st.integers(1, 3))):
        spoil(directory, data)
    look_at_the_store(directory)
    with closing(Catalog.open(directory / "catalog.db")) as catalog:
        catalog.last_told(PLACE, Tag("1.0"))
        catalog.is_public_everywhere(digest_of(TINY))
        catalog.remember_tag(PLACE, Tag("2.0"), Descriptor("", digest_of(TINY), len(TINY)))
        catalog.try_again()
    assert host_id(directory / "host-id")
    with suppress(NoSecretError):
        assert read_secret(directory, Address("127.0.0.1", 65001))
    with suppress(TrustError):
        authority = Authority.open(directory / "scheduler", time.time(), lifetime_s=3600.0)
        authority.ledger.tokens()
        authority.ledger.hosts()
        authority.close()
    with suppress(TrustError):
        IdentityFiles(directory, name="a").credentials()
    shutil.rmtree(directory)


def look_at_the_store(directory: Path) -> None:
    try:
        store = open_store(directory)
    except StoreError:
        return
    with closing(store):
        for info in store.blobs():
            with suppress(StoreError):
                blob = store.acquire(info.digest)
                assert blob is not None
                try:
                    blob.recover()
                    blob.check(0, blob.size_bytes)
                    if blob.whole and blob.is_checked(0, blob.size_bytes):
                        assert hashlib.sha256(blob.read(0, blob.size_bytes)).hexdigest() == info.digest.hex
                finally:
                    blob.release()
        store.verify()
        store.collect()
        hold(store, b"another")
