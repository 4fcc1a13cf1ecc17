"""The benchmark of adopting, without p2pd: what it makes to be adopted."""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmarks import __main__
from benchmarks.adopt import command as adopt


def test_the_content_store_is_as_large_as_was_asked_for(tmp_path: Path) -> None:
    words = ["adopt", "--size", "1MiB", "--blobs", "4", "--workdir", str(tmp_path)]
    with adopt.open_testbed(__main__.parser().parse_args(words)) as bed:
        assert (len(bed.files), bed.size_bytes) == (4, 2**20)
        for file in bed.files:
            assert hashlib.sha256(file.read_bytes()).hexdigest() == file.name
        assert bed.read_s() > 0
        assert bed.hash_s() > 0
    assert list(tmp_path.iterdir()) == []
