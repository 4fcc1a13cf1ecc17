"""Takes the defences out that docs/security.md and docs/several-schedulers.md name, and shows that their tests fail.

    python -m tests.defences [WORD…]      those whose test or file has one of the words in it; all by default

Each is taken out in a copy of the tree, by another text in place of one that is there once (`defences.toml`). It is for
whoever changes a defence or a test of one, and takes half an hour of a core. `tests/test_architecture.py` sees that
each test of the document is here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PATIENCE_S: Final = 600.0


@dataclass(frozen=True)
class Defence:
    """`test` fails once `old` is replaced by `new` in `file`."""

    test: str
    file: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.test.partition('::')[2]}  without  {self.file}: {' '.join(self.old.split())[:60]}"


def defences() -> list[Defence]:
    told = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    return [
        Defence(f"tests/{test}", file, old, new)
        for test, files in told.items()
        for file, changes in files.items()
        for old, new in changes
    ]


def main(words: list[str]) -> int:
    """The exit code: 1 if a defence went out unnoticed."""
    chosen = [each for each in defences() if not words or any(word in f"{each.test} {each.file}" for word in words)]
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="p2pd-defences-") as scratch:
        tree = _copy(Path(scratch) / "tree")
        broken = [test for test in dict.fromkeys(each.test for each in chosen) if _verdict(test, tree) != "PASSES"]
        if broken:
            sys.stdout.write("these fail with their defences in place:\n  {}\n".format("\n  ".join(broken)))
            return 1
        for each in chosen:
            verdict = _without(each, tree)
            unnoticed += verdict != "fails"
            sys.stdout.write(f"{verdict:>10}  {each}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - unnoticed} of {len(chosen)} are noticed\n")
    return 1 if unnoticed else 0


def _copy(tree: Path) -> Path:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    return tree


def _without(defence: Defence, tree: Path) -> str:
    """What the test does without the defence; it is to fail."""
    file = tree / defence.file
    text = file.read_text()
    if text.count(defence.old) != 1:
        return "not found"
    file.write_text(text.replace(defence.old, defence.new))
    try:
        return _verdict(defence.test, tree)
    finally:
        file.write_text(text)


def _verdict(test: str, tree: Path) -> str:
    path, _, name = test.partition("::")
    environ = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", name, path]
    try:
        done = subprocess.run(pytest, cwd=tree, env=environ, capture_output=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return "hangs"
    return {0: "PASSES", 1: "fails"}.get(done.returncode, f"pytest {done.returncode}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
