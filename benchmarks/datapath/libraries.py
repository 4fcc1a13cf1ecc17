"""What a node's libraries take by themselves: a process that loads them, and serves.

`python -m benchmarks.datapath.libraries PORT`.

Each is one without which a node that is alone can't answer, as little of it is loaded as a node loads, and nothing is
imported of p2pd but that. Every request is answered with 404, at 127.0.0.1.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Final, cast

from p2pd.cli.loading import loading
from p2pd.daemon.aiohttp_import import import_aiohttp

LOADED: Final = ("sqlite3", "aiofastnet", "blake3", "click", "msgspec", "prometheus_client", "structlog")


def main(port: int) -> None:
    """Serve until a signal ends the process."""
    sys.modules["rich"] = cast("ModuleType", None)  # as p2pd.daemon.logs hides it from structlog
    with loading():
        import_aiohttp()

        for name in LOADED:
            import_module(name)
        import uvloop
        from aiohttp import web

    uvloop.install()
    web.run_app(web.Application(), host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
