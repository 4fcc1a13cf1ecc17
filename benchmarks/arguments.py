"""The values of command-line arguments: sizes, rates and counts. Each parser raises argparse.ArgumentTypeError.

And the command line of a report.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Final

KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30
_FACTORS: Final = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def size(text: str) -> int:
    """`1GiB`, `64MiB`, `512KiB`: bytes."""
    match = re.fullmatch(r"([1-9][0-9]*)(KiB|MiB|GiB)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is not a size like 64MiB or 1GiB")
    return int(match[1]) * {"KiB": KIB, "MiB": MIB, "GiB": GIB}[match[2]]


def bytes_per_s(text: str) -> float:
    """A rate in the notation of `tc`: `100mbit`."""
    match = re.fullmatch(r"([1-9][0-9]*)(kbit|mbit|gbit)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is not a rate like 100mbit or 1gbit")
    return int(match[1]) * _FACTORS[match[2]] / 8


def within(least: int, most: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least} to {most}")
        return int(text)

    return count


def measured_by(arguments: Sequence[str]) -> str:
    """The command line without the options that do not decide what a figure is."""
    others = argparse.ArgumentParser(add_help=False)
    others.add_argument("--json", action="store_true")
    for name in ("--runs", "--only", "--workdir"):
        others.add_argument(name)
    return " ".join(others.parse_known_args(arguments)[1])
