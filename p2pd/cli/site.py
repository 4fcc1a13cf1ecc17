"""`p2pd site export` and `p2pd site import`: images for sites without a line, as an OCI layout or a tar of one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pd.cli.options import with_settings
from p2pd.cli.suggest import SuggestingGroup

if TYPE_CHECKING:
    from p2pd.config.settings import Settings
    from p2pd.pull.image import PullReport

_json_flag = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_with_place = with_settings("mirror", "admin", "data", "preheat")


@click.group("site", cls=SuggestingGroup)
def site() -> None:
    """Carry images to sites without a line.

    `export` writes an OCI layout, or FILE.tar of one, on a node that has the images or can fetch them. `import` gives
    them to a node, which shares them with its neighbours.
    """


@site.command("export")
@click.argument("to", metavar="DIR|FILE.tar", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE...", nargs=-1)
@click.option("--rules", "by_rules", is_flag=True, help="Also the images of [[preheat]]; of patterns, what is cached.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Of indexes, this one alone.  [default: all]")
@_json_flag
@_with_place
def export(
    settings: Settings, *, to: Path, images: tuple[str, ...], by_rules: bool, platform: str | None, as_json: bool
) -> None:
    """Write IMAGEs, from the node's cache or through it from their registries.

    Every byte is hashed. What DIR or FILE.tar has already is not fetched again.
    """
    from p2pd.pull.image import NoProgress, PullRequest, pull
    from p2pd.pull.platforms import parse_platform
    from p2pd.site.exporting import destination, images_of_rules
    from peer.errors import InvalidNameError, P2pdError
    from peer.oci.reference import parse_image_reference

    try:
        of_platform = parse_platform(platform) if platform else None
        named = [parse_image_reference(each) for each in images]
        if by_rules:
            named += [parse_image_reference(each) for each in images_of_rules(settings.preheat, _cached(settings))]
    except InvalidNameError as error:
        raise click.UsageError(str(error)) from None
    if not named:
        raise click.UsageError("give images, or --rules with [[preheat]] in p2pd.toml")
    if any(each.tag is None for each in named):
        raise click.UsageError("images are exported by their tags: REPOSITORY:TAG")
    if settings.mirror is None:
        raise click.UsageError("name the node's mirror: --mirror HOST:PORT")
    reports: list[PullReport] = []
    failed: dict[str, str] = {}
    with destination(to) as layout:
        for image in dict.fromkeys(named):
            request = PullRequest(image, settings.mirror, layout, of_platform, _login(str(image.repository.upstream)))
            try:
                reports.append(pull(request, NoProgress()))
            except P2pdError as error:
                failed[str(image)] = str(error)
        bad = [(report.image, verdict) for report in reports for verdict in report.verdicts if not verdict.ok]
        failed |= {image: f"{verdict.digest}: {verdict.error}" for image, verdict in bad}
        if failed and not [report for report in reports if report.ok]:
            raise P2pdError("\n".join(f"{image}: {reason}" for image, reason in failed.items()))
    _tell([_exported(report) for report in reports if report.ok], failed, as_json=as_json)


@site.command("import")
@click.argument("source", metavar="DIR|FILE.tar", type=click.Path(path_type=Path, exists=True))
@click.argument("images", metavar="[IMAGE...]", nargs=-1)
@click.option("--keep", metavar="DURATION", default="7d", show_default=True, help="Pinned so long; 0s is not at all.")
@_json_flag
@_with_place
def import_(settings: Settings, *, source: Path, images: tuple[str, ...], keep: str, as_json: bool) -> None:
    """Give images of an export, by default all, to the node that runs here.

    Every byte is hashed. They are pinned for as long as the rule of [[preheat]] says that matches, or else for --keep.
    While their registries cannot be reached, their tags mean what was imported, and whoever reaches the mirror may
    have them.
    """
    from p2pd.admin.client import AdminClient

    done = AdminClient(settings.admin, settings.data).import_site(source.absolute(), images, keep)
    failed = {str(each["image"]): str(each["error"]) for each in done if each["error"]}
    _tell([each for each in done if not each["error"]], failed, as_json=as_json)


def _tell(done: Sequence[dict[str, Any]], failed: dict[str, str], *, as_json: bool) -> None:
    """Raises P2pdError if an image failed."""
    from p2pd.config.values import show_size
    from peer.errors import P2pdError

    if as_json:
        click.echo(json.dumps({"images": done, "failed": failed}, indent=2))
    else:
        for each in done:
            unpinned = each.get("unpinned_bytes", 0)
            note = f"; {show_size(unpinned)} not pinned: no room" if unpinned else ""
            sizes = f"{show_size(each['size_bytes'])}, {show_size(each['new_bytes'])} of it new"
            click.echo(f"{each['image']} is {each['digest']}: {each['blobs']} blobs, {sizes}{note}")
    if failed:
        raise P2pdError("\n".join(f"{image}: {reason}" for image, reason in failed.items()))


def _exported(report: PullReport) -> dict[str, Any]:
    return {
        "image": report.image,
        "digest": str(report.digest),
        "blobs": len(report.verdicts),
        "size_bytes": sum(verdict.size_bytes for verdict in report.verdicts),
        "new_bytes": report.fetched_bytes,
    }


def _cached(settings: Settings) -> list[str]:
    from p2pd.admin.client import AdminClient

    if not any(rule.is_pattern for rule in settings.preheat):
        return []
    return [image.name for image in AdminClient(settings.admin, settings.data).images()]


def _login(upstream: str) -> Any:
    from p2pd.pull.docker_config import docker_login

    return docker_login(upstream, os.environ)
