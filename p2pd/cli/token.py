"""`p2pd token`: the tokens with which hosts join a cluster, in the data directory beside its scheduler."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING

import click

from p2pd.cli.options import REDIS, SCHEDULER_DATA, with_settings
from p2pd.cli.suggest import SuggestingGroup
from p2pd.config.values import ConfigError, parse_duration, show_duration
from p2pd.daemon.trust import opened_authority
from peer.errors import P2pdError

if TYPE_CHECKING:
    from p2pd.config.settings import Settings
    from scheduler.trust.ledger import TokenRecord

_json_flag = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_with_place = with_settings("data", "ca_cert", "ca_key", *REDIS, defaults={"data": SCHEDULER_DATA})


@click.group("token", cls=SuggestingGroup)
def token() -> None:
    """Make, list and revoke the tokens with which hosts join a cluster.

    These commands run on the scheduler's machine, as its user or as root. The scheduler notices within seconds.
    """


@token.command("create")
@click.option("--ttl", default="24h", metavar="DURATION", help="How long hosts may join with it; 0 is for ever.  [24h]")
@click.option("--uses", default=0, type=click.IntRange(0, 1_000_000), help="How many hosts may; 0 is any number.  [0]")
@click.option("--note", default="", metavar="TEXT", help="What it is for, shown in lists.")
@_json_flag
@_with_place
def create(settings: Settings, *, ttl: str, uses: int, note: str, as_json: bool) -> None:
    """Make a join token and print it. It is shown once: the scheduler keeps only its hash."""
    try:
        ttl_s = parse_duration(ttl)
    except ConfigError as error:
        raise ConfigError(f"--ttl: {error}") from None
    if len(note) > 100 or not note.isprintable():
        raise ConfigError("--note: expected at most 100 printable characters")
    now = time.time()
    with opened_authority(settings) as authority:
        made = authority.create_token(note=note, ttl_s=ttl_s or None, uses=uses or None, now=now)
    if as_json:
        expires = now + ttl_s if ttl_s else None
        click.echo(json.dumps({"id": made.id, "token": made.text, "expires": expires, "uses": uses or None}, indent=2))
        return
    click.echo(made.text)
    time_bound = f"for {show_duration(ttl_s)}" if ttl_s else "for ever"
    count = f"for {uses} hosts" if uses else "for any number of hosts"
    click.echo(f"Good {time_bound}, {count}.", err=True)
    click.echo("On a node: p2pd run --scheduler https://THIS-MACHINE:65003 --join TOKEN", err=True)


@token.command("ls")
@_json_flag
@_with_place
def ls(settings: Settings, *, as_json: bool) -> None:
    """List the join tokens."""
    with opened_authority(settings) as authority:
        found = authority.ledger.tokens()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
        return
    now = time.time()
    line = "{:<8}  {:<8}  {:>8}  {:>5}  {:>5}  {}"
    click.echo(line.format("TOKEN", "STATE", "EXPIRES", "LEFT", "AGE", "NOTE"))
    for each in found:
        expires = "never" if each.expires is None else f"in {show_duration(max(0.0, each.expires - now))}"
        left = "any" if each.uses_left is None else str(each.uses_left)
        age = show_duration(max(0.0, now - each.created))
        click.echo(line.format(each.id, _state(each, now), expires, left, age, each.note).rstrip())


@token.command("revoke")
@click.argument("tokens", metavar="TOKEN...", nargs=-1, required=True)
@_with_place
def revoke(settings: Settings, *, tokens: tuple[str, ...]) -> None:
    """Revoke join tokens, each named by its id. Hosts that joined with them stay."""
    with opened_authority(settings) as authority:
        ids = [text.split("_")[1] if text.startswith("p2pd1_") and "_" in text[6:] else text for text in tokens]
        missing = [each for each in ids if not authority.ledger.revoke_token(each, time.time())]
    for each in ids:
        if each not in missing:
            click.echo(f"revoked {each}")
    if missing:
        raise P2pdError("\n".join(f"there is no join token {each[:64]}: see `p2pd token ls`" for each in missing))


def _state(each: TokenRecord, now: float) -> str:
    if each.revoked is not None:
        return "revoked"
    if each.expires is not None and now >= each.expires:
        return "expired"
    return "used up" if each.uses_left == 0 else "good"
