"""Which platform of an index a machine takes."""

from __future__ import annotations

import pytest

from p2pd.pull.platforms import choose_platform, local_platform, parse_platform
from peer.errors import InvalidNameError
from peer.oci.descriptor import Descriptor, Platform
from peer.oci.digest import Digest
from peer.oci.manifest import OCI_IMAGE


def chosen(offered: list[str], wanted: str) -> str | None:
    children = [Descriptor(OCI_IMAGE, Digest(f"sha256:{'0' * 64}"), 1)]
    children += [
        Descriptor(OCI_IMAGE, Digest(f"sha256:{number:064x}"), 1, platform=parse_platform(text))
        for number, text in enumerate(offered)
    ]
    child = choose_platform(children, parse_platform(wanted))
    return None if child is None else offered[int(child.digest.removeprefix("sha256:"), 16)]


@pytest.mark.parametrize(
    ("offered", "wanted", "expected"),
    [
        (["linux/arm64", "linux/amd64"], "linux/amd64", "linux/amd64"),
        (["linux/arm64/v8", "linux/amd64"], "linux/arm64", "linux/arm64/v8"),
        (["linux/arm64"], "linux/arm64/v8", "linux/arm64"),
        (["linux/arm64/v9"], "linux/arm64", None),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", "linux/arm/v7"),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v6", "linux/arm/v6"),
        (["linux/arm/v5", "linux/arm/v7"], "linux/arm/v6", "linux/arm/v5"),
        (["linux/amd64", "linux/amd64/v3"], "linux/amd64", "linux/amd64"),
        (["linux/amd64", "linux/amd64/v3"], "linux/amd64/v4", "linux/amd64/v3"),
        (["linux/riscv64", "windows/amd64"], "linux/amd64", None),
        (["linux/riscv64"], "linux/riscv64", "linux/riscv64"),
        (["linux/mips/softfloat", "linux/mips"], "linux/mips/softfloat", "linux/mips/softfloat"),
        (["linux/mips/softfloat"], "linux/mips", None),
        ([], "linux/amd64", None),
    ],
)
def test_the_highest_variant_that_runs_is_chosen(offered: list[str], wanted: str, expected: str | None) -> None:
    assert chosen(offered, wanted) == expected


def test_this_machine_has_a_platform() -> None:
    assert local_platform().os == "linux"
    assert parse_platform(str(local_platform())) == local_platform()


@pytest.mark.parametrize("text", ["", "linux", "linux/", "a/b/c/d", "linux/AMD64", "linux/amd64 "])
def test_other_texts_are_no_platform(text: str) -> None:
    with pytest.raises(InvalidNameError, match="not OS/ARCHITECTURE"):
        parse_platform(text)


def test_a_platform_is_written_as_it_is_read() -> None:
    assert str(Platform("linux", "arm", "v7")) == "linux/arm/v7"
