"""The files of a machine below a directory, on which `p2pd configure` was run for a runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from p2pd.config.sources import load
from p2pd.configure.plan import configure
from p2pd.configure.request import request_of
from p2pd.configure.runtime import ProxyRequest
from p2pd.configure.runtimes import RUNTIMES
from p2pd.configure.tree import Disk


def configured(
    root: Path,
    runtime: str,
    mirror: str,
    *,
    upstreams: Sequence[str] = ("docker.io",),
    wildcard: bool = False,
    https_proxy: ProxyRequest | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """`root` as the machine's, with the operator's `files` by path and then what configure made of them."""
    for path, text in (files or {}).items():
        file = root / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    settings = load({}, {}, default_file=root / "no such file")
    request = request_of(settings, mirror=mirror, upstreams=upstreams, wildcard=wildcard)
    configure(RUNTIMES[runtime], replace(request, https_proxy=https_proxy), Disk(root))
    return root
