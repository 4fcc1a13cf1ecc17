"""`p2pd pull IMAGE`: pull an image through the mirror, and say of every digest whether what came is right."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

ASK_S = 1.0
"""How long the daemon may take to say what came from where: the pull does not depend on it."""

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pd.config.values import Address
    from p2pd.pull.docker_config import Login
    from p2pd.pull.image import PullProgress, PullReport
    from peer.oci.reference import ImageReference


@click.command()
@click.argument("image")
@click.option("--to", metavar="DIR", default="/dev/null", show_default=True, help="OCI image layout to write.")
@click.option("--mirror", metavar="HOST:PORT", default="127.0.0.1:65001", show_default=True, help="Where p2pd serves.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Of an index, pull this one.  [default: this machine's]")
@click.option("--all-platforms", is_flag=True, help="Of an index, pull all.")
@click.option("--username", metavar="NAME", help="Who to be.  [default: who docker's config.json has for the registry]")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--token-host", metavar="HOST", multiple=True, help="A token server outside the registry's domain.")
@click.option(
    "--admin",
    metavar="HOST:PORT",
    default="127.0.0.1:65004",
    show_default=True,
    help="p2pd's admin port there: it knows what came from where.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def pull(
    ctx: click.Context,
    image: str,
    to: str,
    mirror: str,
    admin: str,
    platform: str | None,
    all_platforms: bool,
    username: str | None,
    password_stdin: bool,
    token_host: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Pull IMAGE through the mirror, into its cache and perhaps into a directory.

    Every blob is hashed. Exit code 1 when one of them is missing or wrong.
    """
    from p2pd.config.values import parse_address
    from p2pd.pull import image as engine
    from p2pd.pull.platforms import local_platform, parse_platform
    from peer.errors import InvalidNameError
    from peer.oci.reference import parse_image_reference

    if platform and all_platforms:
        raise click.UsageError("--platform and --all-platforms exclude each other")
    try:
        reference = parse_image_reference(image)
        wanted = parse_platform(platform) if platform else local_platform()
    except InvalidNameError as error:
        raise click.UsageError(str(error)) from None
    request = engine.PullRequest(
        image=reference,
        mirror=parse_address(mirror),
        destination=None if to == os.devnull else Path(to),
        platform=None if all_platforms else wanted,
        login=_login(reference, username, password_stdin=password_stdin),
        token_hosts=token_host,
    )
    daemon = parse_address(admin)
    before = None if quiet else _came(daemon, request.mirror)
    with _progress(shown=not quiet and not as_json) as progress:
        report = engine.pull(request, progress)
    after = None if before is None else _came(daemon, request.mirror)
    sources = None if before is None or after is None else {key: max(0, after[key] - before[key]) for key in before}
    if as_json:
        click.echo(json.dumps({**_as_json(report), "sources": sources}, indent=2))
    elif not quiet or not report.ok:
        _print(report, sources, only_bad=quiet)
    ctx.exit(0 if report.ok else 1)


def _login(image: ImageReference, username: str | None, *, password_stdin: bool) -> Login | None:
    from p2pd.pull.docker_config import Login, docker_login

    if (username is None) == password_stdin:
        raise click.UsageError("--username and --password-stdin go together")
    if username is None:
        return docker_login(image.repository.upstream, os.environ)
    return Login(username, sys.stdin.readline().rstrip("\r\n"))


def _came(admin: Address, mirror: Address) -> dict[str, int] | None:
    """The bytes that have come to the node so far, by where from; None if its daemon does not answer there."""
    from p2pd.admin.client import AdminClient
    from p2pd.admin.reading import number, section, text
    from p2pd.config.values import parse_address
    from peer.errors import P2pdError

    try:
        status = AdminClient(admin, answer_timeout_s=ASK_S).status()
        if parse_address(text(status, "mirror")).port != mirror.port:
            return None
    except P2pdError:
        return None
    downloads = section(status, "downloads")
    return {f"{source}_bytes": int(number(downloads, f"{source}_bytes") or 0) for source in ("origin", "peer")}


@contextmanager
def _progress(*, shown: bool) -> Iterator[PullProgress]:
    from p2pd.pull.image import NoProgress

    if not shown or not sys.stderr.isatty():
        yield NoProgress()
        return
    from p2pd.cli.pull_bars import PullBars

    with PullBars() as bars:
        yield bars


def _as_json(report: PullReport) -> dict[str, object]:
    return {
        "image": report.image,
        "digest": report.digest,
        "ok": report.ok,
        "bytes": report.fetched_bytes,
        "seconds": round(report.seconds, 3),
        "skipped": list(report.skipped),
        "blobs": [
            {
                "digest": verdict.digest,
                "media_type": verdict.media_type,
                "size_bytes": verdict.size_bytes,
                "ok": verdict.ok,
                "fetched_bytes": verdict.fetched_bytes,
                "seconds": round(verdict.seconds, 3),
                "error": verdict.error,
            }
            for verdict in report.verdicts
        ],
    }


def _print(report: PullReport, sources: dict[str, int] | None, *, only_bad: bool) -> None:
    from p2pd.config.values import show_size

    for verdict in report.verdicts:
        if not verdict.ok:
            click.echo(f"bad  {verdict.digest}  {verdict.error}", err=True)
        elif not only_bad:
            kept = "" if verdict.fetched_bytes or not verdict.size_bytes else "  was there"
            click.echo(f"ok   {verdict.digest}  {show_size(verdict.size_bytes)}{kept}")
    if only_bad:
        return
    for digest in report.skipped:
        click.echo(f"skip {digest}  a foreign layer, which registries need not have")
    rate = show_size(int(report.fetched_bytes / report.seconds)) if report.seconds else "0B"
    click.echo(
        f"{report.image} is {report.digest}: {show_size(report.fetched_bytes)} in {report.seconds:.1f} s, {rate}/s"
    )
    if sources is not None:
        origin, peer = (show_size(sources[f"{source}_bytes"]) for source in ("origin", "peer"))
        click.echo(f"meanwhile this node took {origin} from registries and {peer} from neighbours; the rest it had")
