"""buildkitd: `mirrors` for each upstream in buildkitd.toml, and plain HTTP for the mirror.

BuildKit names the registry in each request (`ns`), so the mirror's address has no path.
(`docker build` needs none of this: dockerd's own BuildKit takes dockerd's configuration.)
"""

from __future__ import annotations

from typing import Final

from p2pd.configure.runtime import ConfigureError, Reader, Request, Runtime, RuntimePlan, marked
from p2pd.configure.toml_file import parse, table, with_value

CONFIG: Final = "/etc/buildkit/buildkitd.toml"


def plan(request: Request, files: Reader) -> RuntimePlan:
    """Raises ConfigureError if buildkitd.toml is no TOML or cannot be changed safely."""
    content = files.read(CONFIG)
    if content is None:
        return RuntimePlan({CONFIG: marked("buildkit", _with_mirrors(request, b"").decode())})
    return RuntimePlan({CONFIG: _with_mirrors(request, content)})


def _with_mirrors(request: Request, content: bytes) -> bytes:
    for upstream in request.upstream_names:
        keys = ("registry", upstream)
        mirrors = table(parse(CONFIG, content), keys).get("mirrors", [])
        if not isinstance(mirrors, list):
            raise ConfigureError(f"{CONFIG}: the mirrors of {upstream} are no list; nothing was changed")
        if request.mirror_host not in mirrors:
            content = with_value(CONFIG, content, keys, "mirrors", [request.mirror_host, *mirrors])
    keys = ("registry", request.mirror_host)
    if table(parse(CONFIG, content), keys).get("http") is not True:
        content = with_value(CONFIG, content, keys, "http", True)
    return content


RUNTIME: Final = Runtime(
    name="buildkit",
    journal="buildkit",
    plan=plan,
    programs=("buildkitd",),
    families=("buildkit",),
    activation={CONFIG: "buildkitd reads it only when it starts: systemctl restart buildkit"},
    no_wildcard="buildkitd.toml takes registries by name only",
)
