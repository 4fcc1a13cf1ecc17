"""Hosts that decide nothing: each has all pieces in the end, and hears of those of others."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from benchmarks.bare.command import BareTestbed, add_arguments, make_credentials

PIECE_BYTES = 512 * 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces")
@pytest.mark.parametrize("encrypted", [False, True])
def test_each_host_takes_all_pieces_and_tells_as_many_others_as_it_is_to(tmp_path: Path, encrypted: bool) -> None:
    file = tmp_path / "pieces"
    file.write_bytes(bytes(4 * PIECE_BYTES))
    options = argparse.Namespace(nodes=3, rate=100e6, news=2, runs=1, piece_size=PIECE_BYTES)
    said = BareTestbed(file, options, make_credentials(tmp_path) if encrypted else None).play()
    assert [each["heard"] for each in said] == [8, 8, 8]
    assert [each["decrypted"] for each in said] == [4 * encrypted] * 3
    assert all(each["cpu_s"] >= each["loop_s"] > 0 for each in said)


def test_its_defaults_are_values_that_it_takes() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args([]).piece_size == PIECE_BYTES
