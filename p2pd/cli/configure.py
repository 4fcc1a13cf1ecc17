"""`p2pd configure RUNTIME`: point a container runtime at the mirror, or undo that."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from p2pd.admin.client import AdminClient
from p2pd.cli.suggest import SuggestingChoice
from p2pd.config.sources import load
from p2pd.config.upstream_setting import ANY_HOST
from p2pd.config.values import Address
from p2pd.configure import content_stores, dockerd
from p2pd.configure.docker import DAEMON_JSON
from p2pd.configure.plan import STATE, ConfigureOutcome
from p2pd.configure.plan import configure as carry_out
from p2pd.configure.request import proxy_request, request_of
from p2pd.configure.runtime import Request, Runtime
from p2pd.configure.runtimes import RUNTIMES
from p2pd.configure.tree import Disk
from peer.errors import P2pdError

ASK_S = 1.0
"""How long the daemon on this machine may take to say which upstreams it has."""


@click.command("configure")
@click.argument("runtime", type=SuggestingChoice(list(RUNTIMES)))
@click.option(
    "--undo",
    is_flag=True,
    help="Put back every file as it was before p2pd changed it. What others have changed since stays.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be changed, and change nothing.")
@click.option("--mirror", metavar="HOST:PORT", help="Where the runtime reaches the mirror.  [default: as configured]")
@click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    metavar="NAME|NAME=URL",
    help="An upstream to mirror; repeatable.  [default: all that are configured]",
)
@click.option(
    "--all",
    "wildcard",
    is_flag=True,
    help="Ask the mirror for every other registry as well. p2pd needs the upstream * to serve these.",
)
@click.option(
    "--https-proxy",
    is_flag=True,
    help="docker: have dockerd ask the other upstreams through p2pd's HTTPS proxy, as dockerd mirrors docker.io alone. "
    "p2pd has to run with https_proxy.",
)
@click.option(
    "--accept-changes",
    is_flag=True,
    help="Files that somebody changed so that p2pd cannot take its part out again are the operator's from now on.",
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="p2pd's own configuration.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="/",
    metavar="DIR",
    help="Change the machine whose files are below DIR, such as an image that is being built.",
)
@click.option("--state", default=STATE, show_default=True, metavar="DIR", help="Where it is kept what to put back.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def configure(
    runtime: str,
    *,
    undo: bool,
    dry_run: bool,
    mirror: str | None,
    upstreams: tuple[str, ...],
    wildcard: bool,
    https_proxy: bool,
    accept_changes: bool,
    config: Path | None,
    root: Path,
    state: str,
    as_json: bool,
) -> None:
    """Point a container runtime at the mirror, or undo that.

    Files are replaced all together or not at all. The old bytes are kept, and --undo restores them exactly. A runtime
    that has what it needs is left alone, whoever wrote it. No runtime is restarted; if a restart is needed, the output
    says so. Run it as root.
    """
    chosen = RUNTIMES[runtime]
    if undo and (mirror or upstreams or wildcard or https_proxy):
        raise click.UsageError(
            "--undo puts back what was there: it takes no --mirror, --upstream, --all or --https-proxy"
        )
    if https_proxy and chosen.name != "docker":
        raise click.UsageError(f"{runtime} mirrors every registry by itself: --https-proxy is for docker")
    if wildcard and chosen.no_wildcard:
        raise click.UsageError(
            f"{runtime} has no way to mirror every registry: name each with --upstream ({chosen.no_wildcard})"
        )
    request = None
    if not undo:  # --undo has to work with a broken configuration too
        settings = load({}, os.environ, file=config)
        request = request_of(settings, mirror=mirror, upstreams=upstreams, wildcard=wildcard)
        is_here = root.resolve() == Path("/")
        if wildcard and not request.any_host and is_here:
            request = replace(request, any_host=serves_any_host(settings.admin))
        if https_proxy:
            told = status_of(settings.admin) if is_here else {}
            version = dockerd.version() if is_here else ""
            request = replace(request, https_proxy=proxy_request(settings, told, version))
    outcome, steps = _carry_out(chosen, request, root, state, accept=accept_changes, dry_run=dry_run)
    if not undo:
        more = content_stores.remarks(chosen.name, Disk(root), settings.adopt)
        outcome = replace(outcome, remarks=(*outcome.remarks, *more))
    show = _as_json if as_json else _as_text
    click.echo(show(runtime, outcome, steps, undo=undo, dry_run=dry_run))


def serves_any_host(admin: Address) -> bool:
    """Whether the daemon that runs here has the upstream `*`: it may have it by a flag."""
    upstreams = status_of(admin).get("upstreams")
    return isinstance(upstreams, list) and ANY_HOST in upstreams


def status_of(admin: Address) -> dict[str, Any]:
    """What the daemon that runs here says of itself; nothing if none does."""
    try:
        return AdminClient(admin, answer_timeout_s=ASK_S).status()
    except P2pdError:
        return {}


def _carry_out(
    runtime: Runtime, request: Request | None, root: Path, state: str, *, accept: bool, dry_run: bool
) -> tuple[ConfigureOutcome, list[str]]:
    """Print the outcome and the operator's next steps. Only a dockerd of this machine is signalled."""
    disk = Disk(root)
    daemon = dockerd.running(disk) if runtime.name == "docker" and root.resolve() == Path("/") else None
    if request is not None:
        dockerd.refuse_flags(daemon, proxy=request.https_proxy is not None)
        if request.https_proxy is not None and daemon is not None:
            environment = dockerd.environment_proxy(daemon)
            request = replace(request, https_proxy=replace(request.https_proxy, environment=environment))
    outcome = carry_out(runtime, request, disk, state, accept=accept, dry_run=dry_run)
    changed = [change.path for change in outcome.changes if change.path in runtime.activation]
    if DAEMON_JSON in changed and daemon is not None and not dry_run and dockerd.reload(daemon):
        return outcome, [
            f"dockerd (pid {daemon.pid}) was told to read {DAEMON_JSON} again; docker info shows its mirrors."
        ]
    return outcome, [f"{path}: {runtime.activation[path]}" for path in changed]


def _as_text(runtime: str, outcome: ConfigureOutcome, steps: list[str], *, undo: bool, dry_run: bool) -> str:
    lines: list[str] = []
    if dry_run:
        lines += [change.diff.rstrip("\n") for change in outcome.changes]
    lines += [f"{'would be ' if dry_run else ''}{change.action} {change.path}" for change in outcome.changes]
    lines += [f"left {path} as it is: somebody changed it" for path in outcome.accepted]
    if not outcome.changes:
        lines.append(f"{runtime}: nothing to undo" if undo else f"{runtime} is configured already; nothing was changed")
    lines += [f"note: {remark}" for remark in outcome.remarks]
    lines += [f"next: {step}" for step in steps]
    if outcome.changes and not undo and not dry_run:
        lines.append(f"next: p2pd doctor checks it; p2pd configure {runtime} --undo takes it back")
    return "\n".join(lines)


def _as_json(runtime: str, outcome: ConfigureOutcome, steps: list[str], *, undo: bool, dry_run: bool) -> str:
    return json.dumps(
        {
            "runtime": runtime,
            "undo": undo,
            "dry_run": dry_run,
            "changes": [
                {"path": change.path, "action": change.action, "diff": change.diff} for change in outcome.changes
            ],
            "accepted": outcome.accepted,
            "remarks": outcome.remarks,
            "next": steps,
        },
        indent=2,
    )
