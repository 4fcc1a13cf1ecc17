"""What a process of p2pd does not load: the parts that only others need, and what aiohttp has for others. And how the
rest is loaded."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from tests.support.registry_server import PATIENCE_S

FOR_OTHERS: Final = (
    "scheduler.core.scheduler",
    "scheduler.shell.server",
    "wsproto",
    "p2pd.admin.cluster",
    "p2pd.preheat.api",
    "p2pd.predict.service",
    "p2pd.site.importing",
    "p2pd.openapi.document",
    "cryptography",
)
"""The first module of each part that most nodes do not need, each with some MiB behind it."""


def run(code: str, environ: dict[str, str] | None = None) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    return done.stdout.strip()


def test_a_node_loads_nothing_for_others() -> None:
    loaded = run("import sys, p2pd.cli.app, p2pd.cli.run, p2pd.daemon.node; print(*sys.modules)").split()
    assert "aiohttp" in loaded
    assert not {*FOR_OTHERS} & {*loaded}


def test_aiohttp_reads_no_authorities_and_the_environment_stays() -> None:
    code = (
        "import os; before = dict(os.environ)\n"
        "from p2pd.daemon.aiohttp_import import import_aiohttp; import_aiohttp()\n"
        "from aiohttp import connector; assert dict(os.environ) == before\n"
        "both = connector._SSL_CONTEXT_VERIFIED, connector._SSL_CONTEXT_UNVERIFIED\n"
        "print(*(each.cert_store_stats()['x509'] for each in both))\n"
    )
    assert run(code, {"SSL_CERT_DIR": "/somewhere"}) == "0 0"


def test_authorities_are_read_all_the_same_by_whoever_asks_an_upstream() -> None:
    code = (
        "from p2pd.daemon.aiohttp_import import import_aiohttp; import_aiohttp()\n"
        "import ssl, sys; found = ssl.create_default_context().cert_store_stats()['x509']\n"
        "print(found, 'aiohttp' in sys.modules)\n"
    )
    plain = run("import ssl; print(ssl.create_default_context().cert_store_stats()['x509'])")
    assert run(code) == f"{plain} True"


@pytest.mark.parametrize("command", ["run", "scheduler"])
def test_both_daemons_import_aiohttp_so(command: str) -> None:
    code = (
        "import sys, p2pd.cli.app, p2pd.cli.run, p2pd.cli.scheduler\n"
        f"module = sys.modules['p2pd.cli.{command}']\n"
        "module.import_aiohttp = lambda: sys.exit('before' if 'aiohttp' not in sys.modules else 'after')\n"
        "module.%s.main(['--data', '/dev/null/none'])\n" % command
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.stderr.splitlines()[-1] == "before"


@pytest.mark.parametrize(("command", "daemon"), [("run", "node"), ("scheduler", "scheduler")])
def test_garbage_is_hardly_looked_for_while_a_daemon_is_loaded(command: str, daemon: str) -> None:
    code = (
        "import gc, sys, p2pd.cli.app, p2pd.cli.run, p2pd.cli.scheduler\n"
        f"module, young = sys.modules['p2pd.cli.{command}'], gc.get_threshold()[0]\n"
        "def load():\n"
        f"    import p2pd.daemon.{daemon} as daemon\n"
        "    print(gc.get_threshold()[0] > 10 * young)\n"
        "    daemon.run = lambda *_: print(gc.get_threshold()[0] == young, gc.get_freeze_count() > 10 * young)\n"
        "module.import_aiohttp = load\n"
        f"module.{command}.main([])\n"
    )
    assert run(code) == "True\nTrue True"


@pytest.mark.parametrize("command", ["status", "version"])
def test_what_asks_for_the_status_imports_no_store_and_no_log(command: str) -> None:
    code = (
        "import sys; from p2pd.cli.app import app\n"
        f"try: app(['{command}', '--admin', '127.0.0.1:1'])\n"
        "except SystemExit: pass\n"
        "print('modules:', *sys.modules)\n"
    )
    loaded = run(code).rpartition("modules:")[2].split()
    assert "p2pd.admin.client" in loaded
    assert not {"peer.store", "structlog", "asyncio", "rich"} & {*loaded}
