"""What a node's libraries take by themselves: a process that loads them, and serves.

`python -m benchmarks.datapath.libraries PORT`.

Each is one without which a node that is alone can't answer, as little of it is loaded as a node loads, and nothing is
imported of p2pd but that. Every request is answered with 404, at 127.0.0.1.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import cast

from p2pd.cli.loading import loading
from p2pd.daemon.aiohttp_import import import_aiohttp


def main(port: int) -> None:
    """Serve until a signal ends the process."""
    sys.modules["rich"] = cast("ModuleType", None)  # as p2pd.daemon.logs hides it from structlog
    with loading():
        import_aiohttp()

        import sqlite3  # noqa: F401

        import aiofastnet  # noqa: F401
        import blake3  # noqa: F401
        import click  # noqa: F401
        import msgspec  # noqa: F401
        import prometheus_client  # noqa: F401
        import structlog  # noqa: F401
        import uvloop
        from aiohttp import web

    uvloop.install()
    web.run_app(web.Application(), host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
