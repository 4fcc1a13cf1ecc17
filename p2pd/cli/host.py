"""`p2pd host`: the hosts that joined a cluster, in the data directory beside its scheduler."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING

import click

from p2pd.cli.options import SCHEDULER_DATA, with_settings
from p2pd.config.values import show_duration
from p2pd.daemon.trust import opened_ledger
from peer.errors import P2pdError

if TYPE_CHECKING:
    from p2pd.config.settings import Settings

_json_flag = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_with_place = with_settings("data", defaults={"data": SCHEDULER_DATA})


@click.group("host")
def host() -> None:
    """List and revoke the hosts that joined a cluster.

    These commands run on the scheduler's machine, as its user or as root. The scheduler notices within seconds.
    """


@host.command("ls")
@_json_flag
@_with_place
def ls(settings: Settings, *, as_json: bool) -> None:
    """List the hosts that have, or had, a certificate."""
    with opened_ledger(settings) as ledger:
        found = ledger.hosts()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
        return
    now = time.time()
    width = max([4, *(len(each.id) for each in found)])
    line = f"{{:<{width}}}  {{:<7}}  {{:>7}}  {{:>7}}  {{:>8}}  {{}}"
    click.echo(line.format("HOST", "STATE", "JOINED", "RENEWED", "EXPIRES", "TOKEN"))
    for each in found:
        state = "revoked" if each.revoked is not None else "good" if now < each.expires else "expired"
        ages = [show_duration(max(0.0, now - moment)) for moment in (each.first_seen, each.last_renewed)]
        expires = f"in {show_duration(each.expires - now)}" if now < each.expires else "over"
        click.echo(line.format(each.id, state, *ages, expires, each.token))


@host.command("revoke")
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
@click.option(
    "--unknown", is_flag=True, help="Also a host that is not in the list: one with a certificate of --tls-dir."
)
@_with_place
def revoke(settings: Settings, *, hosts: tuple[str, ...], unknown: bool) -> None:
    """Cut hosts off: their sessions and links end within a minute, and they cannot come back."""
    failed = []
    with opened_ledger(settings) as ledger:
        known = {each.id: each.token for each in ledger.hosts()}
        usable = {each.id for each in ledger.tokens() if each.usable(time.time())}
        for each in hosts:
            if each not in known and not unknown:
                failed.append(f"there is no host {each[:64]}: see `p2pd host ls`, or give --unknown")
                continue
            ledger.revoke_host(each, time.time())
            click.echo(f"revoked {each}")
            if known.get(each) in usable:
                click.echo(f"Its join token can be used again: p2pd token revoke {known[each]}", err=True)
    if failed:
        raise P2pdError("\n".join(failed))
