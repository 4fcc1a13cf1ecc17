"""groff sets all man pages, and has nothing to say of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from p2pd.cli.manual import write
from tests.real.packages import PATH
from tests.support.registry_server import PATIENCE_S


@pytest.mark.usefixtures("programs")
def test_groff_has_nothing_to_say(tmp_path: Path) -> None:
    groff = shutil.which("groff", path=PATH)
    assert groff is not None
    write(tmp_path)
    files = sorted(tmp_path.iterdir())
    done = subprocess.run([groff, "-man", "-Tutf8", "-ww", *files], capture_output=True, check=True, timeout=PATIENCE_S)
    assert done.stderr == b""
    assert b"p2pd-configure" in re.sub(rb".\x08|\x1b\[[0-9;]*m", b"", done.stdout)
