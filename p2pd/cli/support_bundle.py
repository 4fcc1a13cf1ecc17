"""`p2pd support-bundle`: collects what those who help ask for, without secrets."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

import click

from p2pd.config.settings import Settings
from p2pd.config.sources import PREFIX, load
from p2pd.config.values import Address, ConfigError, parse_address
from p2pd.doctor.bundle import parts_of, write_bundle
from p2pd.doctor.environment import real
from peer.errors import P2pdError


@click.command("support-bundle")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="p2pd's own configuration.")
@click.option("--admin", metavar="HOST:PORT", help="The daemon's admin port.  [default: as configured]")
@click.option(
    "--log",
    "log_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Take the last lines of FILE.  [default: of the journal of p2pd's units]",
)
def support_bundle(file: Path | None, *, config: Path | None, admin: str | None, log_file: Path | None) -> None:
    """Write a .tar.gz for those who help: doctor, settings, status, metrics, versions and the end of the log.

    Passwords, tokens and the names of what is cached are not in it. Look at it before you send it. It works without a
    daemon and with a wrong configuration too. Run it as root: other users may not see all.
    """
    settings, problem = _settings(config, None if admin is None else parse_address(admin))
    host = re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:63] or "host"
    path = file or Path(f"p2pd-support-{host}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    parts = parts_of(settings, problem, real(Path("/")), log_file)
    try:
        write_bundle(path, parts, time.time())
    except FileExistsError:
        raise P2pdError(f"{path} is there already: name another file") from None
    except OSError as error:
        raise P2pdError(f"{path} cannot be written: {error.strerror}") from None
    for name, text in parts.items():
        click.echo(f"{name:<14} {text.strip() if text.startswith('not to be had') else f'{len(text)} characters'}")
    click.echo(f"wrote {path}; look at it before you send it")


def _settings(config: Path | None, admin: Address | None) -> tuple[Settings, str]:
    """The settings, and what is wrong with them: then only where the daemon is counts, and the defaults."""
    flags = {} if admin is None else {"admin": admin}
    place = {name: os.environ[name] for name in (f"{PREFIX}ADMIN", f"{PREFIX}DATA") if name in os.environ}
    problem = ""
    for environ, file in ((os.environ, config), (place, Path(os.devnull))):
        try:
            return load(flags, environ, file=file), problem
        except ConfigError as error:
            problem = problem or str(error)
    return load(flags, {}, file=Path(os.devnull)), problem
