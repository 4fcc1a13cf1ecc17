"""Flags made from the keys of `Settings`: every key that is added there becomes a flag."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click

from p2pd.config.settings import KEYS, Key, Settings
from p2pd.config.sources import DEFAULT_FILE, FILE_VARIABLE, PREFIX, Sources
from p2pd.config.values import parse_switch

SCHEDULER_DATA: Final = "/var/lib/p2pd-scheduler"
"""Where a scheduler alone has its CA, and where `p2pd token` and `p2pd host` find it."""

SCHEDULER_ADMIN: Final = "127.0.0.1:65005"
"""The admin port of a scheduler alone."""

REDIS: Final = ("redis", "redis_password_file", "redis_ca", "redis_prefix")
"""The keys that say where several schedulers share what they must."""

GROUPS: Final = {
    "Addresses": ("mirror", "admin", "metrics", "https_proxy", "peer", "advertise", "listen", "allow_open"),
    "Cluster": (
        "scheduler", "scheduler_wait_s", "site", "zone", "rack", "upload_slots", "upload_rate", "download_rate",
        "background_transport", "background_port",
    ),
    "Several schedulers": REDIS,
    "Certificates": (
        "join", "join_file", "tls_dir", "tls_files", "ca_cert", "ca_key", "certificate_ttl_s", "pieces",
    ),
    "Registries": (
        "upstream", "allow_private", "connections_per_origin", "connections_per_blob", "origin_rate", "tag_ttl_s",
        "serve_stale_tags", "access_ttl_s", "prefetch_layers", "preheat",
    ),
    "Predictions": ("pull_history", "predict", "predict_bytes", "predict_model"),
    "Cache": ("data", "max_bytes", "min_free_bytes", "ttl_s", "scrub_rate", "adopt", "adopt_keep"),
    "Clients": ("client_stall_s", "shutdown_grace_s"),
    "Log and traces": ("log_format", "log_level", "traces", "trace_share"),
}  # fmt: skip
"""The keys by subject, for the help of a daemon."""

P = ParamSpec("P")
R = TypeVar("R")


class Daemon(click.Command):
    """A command with many keys: its help has them by subject."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = {each.name: row for each in self.get_params(ctx) if (row := each.get_help_record(ctx)) is not None}
        grouped = {title: [rows.pop(name) for name in names if name in rows] for title, names in GROUPS.items()}
        for title, own in {**grouped, "More": list(rows.values())}.items():
            if own:
                with formatter.section(title):
                    formatter.write_dl(own)


def with_settings(
    *keys: str, defaults: Mapping[str, str] | None = None, authenticated: Collection[str] = ()
) -> Callable[[Callable[Concatenate[Settings, P], R]], Callable[..., R]]:
    """Give a command `--config`, the flags of `keys` (by default of all) and, as first argument, the merged settings.

    The settings are always complete: the file and the variables give those that the command has no flag for.
    `defaults` are the command's own, as an operator would write them; `authenticated` as for `load`.
    """

    def decorate(command: Callable[Concatenate[Settings, P], R]) -> Callable[..., R]:
        def merged(sources: Sources, /, *args: P.args, **given: P.kwargs) -> R:
            return command(sources.read().settings, *args, **given)

        merged.__doc__ = command.__doc__
        return with_sources(*keys, defaults=defaults, authenticated=authenticated)(merged)

    return decorate


def with_sources(
    *keys: str, defaults: Mapping[str, str] | None = None, authenticated: Collection[str] = ()
) -> Callable[[Callable[Concatenate[Sources, P], R]], Callable[..., R]]:
    """As `with_settings`, for a command that reads the settings itself, and perhaps again."""
    names = keys or tuple(KEYS)
    own = dict(defaults or {})

    def decorate(command: Callable[Concatenate[Sources, P], R]) -> Callable[..., R]:
        def with_flags(config: Path | None, **given: Any) -> R:
            flags = {name: given.pop(name) for name in names}
            flags = {name: value for name, value in flags.items() if value not in (None, ())}
            sources = Sources(flags, os.environ, config, defaults=own, authenticated=authenticated)
            return command(sources, **given)  # type: ignore[call-arg] # click gives the rest by name

        with_flags.__doc__ = command.__doc__
        for name in reversed(names):
            with_flags = _option(name, KEYS[name], own.get(name, KEYS[name].default))(with_flags)
        return click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help=f"The configuration file.  [default: ${FILE_VARIABLE}, else {DEFAULT_FILE} if there is one]",
        )(with_flags)

    return decorate


def _option(name: str, key: Key, default: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """A flag that is None if it is not given. Its text goes unparsed to `load`, which parses all sources."""
    flag = f"--{name.replace('_', '-')}"
    text = f"{key.description}  [{PREFIX}{name.upper()}; default: {default or 'none'}]"
    if key.parse is parse_switch:
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=text)
    return click.option(
        flag,
        multiple=name in ("upstream", "scheduler", "allow_private", "adopt", "preheat"),
        metavar=key.metavar,
        help=text,
    )
