"""`python -m benchmarks.extensions FILE...`: compile modules to C and that to extensions, in the current directory.

mypyc's own command writes all of the C into one file, which one core compiles. Here each module is a file of its own,
and each core compiles one at a time. All are in one library still, so calls between modules are direct.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mypy.util import hard_exit
from mypyc.build import mypycify
from setuptools import setup
from setuptools.command.build_ext import build_ext

OPT_LEVEL = "1"
"""Of the C compiler, unless MYPYC_OPT_LEVEL says otherwise. 2 gains less than it takes (docs/decisions, 0064)."""


class BuildSideBySide(build_ext):  # type: ignore[misc]  # it is not typed in each environment
    """Compiles several files at a time, the largest first."""

    def build_extensions(self) -> None:
        compile_all = self.compiler.compile

        def compile_each(sources: Sequence[str], **options: Any) -> list[str]:
            def compile_one(source: str) -> list[str]:
                objects: list[str] = compile_all([source], **options)
                return objects

            by_size = sorted(sources, key=lambda source: Path(source).stat().st_size, reverse=True)
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                return [each for objects in pool.map(compile_one, by_size) for each in objects]

        self.compiler.compile = compile_each
        super().build_extensions()


def main(files: list[str]) -> None:
    modules = mypycify(files, opt_level=os.environ.get("MYPYC_OPT_LEVEL", OPT_LEVEL), multi_file=True, debug_level="0")
    setup(
        name="compiled",
        script_args=["build_ext", "--inplace"],
        cmdclass={"build_ext": BuildSideBySide},
        ext_modules=modules,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
    hard_exit(os.EX_OK)  # as mypy's own command does: to free each object takes 10 s of CPU (docs/decisions, 0075)
