"""`p2pd scheduler`: a scheduler alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pd.cli.loading import loading
from p2pd.cli.options import REDIS, SCHEDULER_ADMIN, SCHEDULER_DATA, Daemon, with_sources
from p2pd.daemon import logs
from p2pd.daemon.aiohttp_import import import_aiohttp

if TYPE_CHECKING:
    from p2pd.config.sources import Sources


@click.command("scheduler", cls=Daemon)
@with_sources(
    "data",
    "listen",
    "admin",
    "metrics",
    "advertise",
    "allow_open",
    *REDIS,
    "tls_dir",
    "tls_files",
    "ca_cert",
    "ca_key",
    "certificate_ttl_s",
    "connections_per_origin",
    "connections_per_blob",
    "tag_ttl_s",
    "pull_history",
    "predict",
    "predict_bytes",
    "predict_model",
    "log_format",
    "log_level",
    defaults={"data": SCHEDULER_DATA, "listen": "127.0.0.1:65003", "admin": SCHEDULER_ADMIN},
    authenticated=["listen"],
)
def scheduler(sources: Sources) -> None:
    """Run a scheduler alone, for nodes that are started with --scheduler https://HOST:65003 --join TOKEN.

    It makes the cluster's CA on its first start, and `p2pd token create` beside it makes the tokens. On loopback, and
    with --allow-open, it serves nodes without certificates too, which are started with --scheduler http://HOST:65003.

    Several of them are one, with --redis: each blob is at one of those that live (docs/several-schedulers.md).

    Every flag is also a key in the configuration file, with _ for -, and the variable that stands beside it. Flags go
    before variables, those before the file. SIGHUP has log_level read again. Of blobs nothing is kept on disk: nodes
    tell all that they hold.
    """
    loaded = sources.read()
    logs.setup(loaded.settings.log_level, loaded.settings.log_format)
    with loading():
        import_aiohttp()
        from p2pd.daemon.scheduler import run as run_scheduler

    run_scheduler(sources, loaded)
