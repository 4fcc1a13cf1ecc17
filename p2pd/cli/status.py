"""`p2pd status`: shows the daemon's `/status`, by subject."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from p2pd.admin.reading import items, number, section, text
from p2pd.cli.options import with_settings
from p2pd.config.values import show_duration, show_size

if TYPE_CHECKING:
    from p2pd.config.settings import Settings

Status = Mapping[str, Any]
Rows = Iterator[tuple[str, str]]


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print what the daemon answers, as JSON.")
@with_settings("admin")
def status(settings: Settings, *, as_json: bool) -> None:
    """Show how the daemon on this node is."""
    from p2pd.admin.client import AdminClient

    found = AdminClient(settings.admin).status()
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines_of(found)))


def lines_of(found: Status) -> list[str]:
    """The status for people, a block for each subject. `--json` has more."""
    groups = [(title, list(rows(found))) for title, rows in _GROUPS.items()]
    width = max((len(name) for _, rows in groups for name, _ in rows), default=0)
    lines: list[str] = []
    for title, rows in groups:
        if rows:
            lines += [*([""] if lines else []), title, *(f"  {name:<{width}}  {words}" for name, words in rows)]
    return lines


def runtime_name(family: str) -> str:
    """The name of the runtime whose user agents begin with `family`, as all commands call it."""
    from p2pd.configure.runtimes import RUNTIMES  # 20 ms that --json does not need

    return next((each.name for each in RUNTIMES.values() if family.lower() in each.families), family)


def _daemon(found: Status) -> Rows:
    version = text(found, "version")
    if version:
        yield "version", f"{version}, up for {show_duration(number(found, 'uptime_s') or 0)}"
    if isinstance(found.get("ready"), bool):
        yield "ready", "yes" if found["ready"] else "no: p2pd doctor says why"
    degraded = found.get("degraded")
    for problem in degraded if isinstance(degraded, list) else ():
        yield "problem", str(problem)
    for key, purpose in (
        ("mirror", "for runtimes"),
        ("listen", "for hosts"),
        ("admin", "for commands"),
        ("metrics", "for metrics"),
        ("https_proxy", "for dockerd's HTTPS proxy"),
    ):
        address = text(found, key)
        if address:
            yield key, f"{address}, {purpose}"
    for own in filter(None, text(found, "own").split(", ")):
        yield "", f"{own}, for runtimes that log in to it by path"


def _cache(found: Status) -> Rows:
    cache, scrub = section(found, "cache"), section(found, "scrub")
    used, most, kept = (number(cache, f"{key}_bytes") for key in ("used", "max", "min_free"))
    if used is None or most is None:
        return
    disk = number(cache, "disk_bytes") or 0
    limit = f"{show_size(int(most))}{_of_disk(most, disk)}"
    yield "used", f"{show_size(int(used))} of {limit}, by {number(cache, 'blobs') or 0:.0f} blobs"
    adopted = section(found, "adopted")
    if number(adopted, "blobs") or number(adopted, "unread"):
        held, unread = show_size(int(number(adopted, "size_bytes") or 0)), number(adopted, "unread") or 0
        to_read = f", {unread:.0f} files are still to be read" if unread else ""
        yield "adopted", f"{held} in files of container runtimes{to_read}"
    if text(found, "data"):
        yield "directory", text(found, "data")
    if kept is not None:
        yield "kept free", f"{show_size(int(kept))}{_of_disk(kept, disk) or ' of the disk'}"
    yield "state", ": ".join(filter(None, (text(cache, "condition"), text(cache, "cause")))) or "unknown"
    evicted, lost, bad = number(cache, "evicted") or 0, number(cache, "lost") or 0, number(scrub, "bad") or 0
    yield "removed", f"{evicted:.0f} blobs for room or age, {lost:.0f} missing or damaged"
    if scrub:
        never = "never (scrub_rate is 0)" if not number(scrub, "rate_bytes_per_s") else ""
        read = show_size(int(number(scrub, "read_bytes") or 0))
        yield "re-read", never or f"{read} to find damage, {bad:.0f} blobs were bad"


def _of_disk(size_bytes: float, disk_bytes: float) -> str:
    return f" ({100 * size_bytes / disk_bytes:.0f} % of the disk)" if disk_bytes else ""


def _clients(found: Status) -> Rows:
    served = section(found, "served")
    hits, misses, hit_bytes, miss_bytes = (
        number(served, key) or 0 for key in ("hits", "misses", "hit_bytes", "miss_bytes")
    )
    if served:
        rate = f", {100 * hits / (hits + misses):.0f} % from the cache (hit rate)" if hits + misses else ""
        yield "answers", f"{hits + misses:.0f} manifests and blobs{rate}"
        yield "bytes", f"{show_size(int(hit_bytes + miss_bytes))}, {show_size(int(hit_bytes))} from the cache"
    if "clients" in found:
        ages: dict[str, float] = {}
        for family in section(found, "clients"):
            age_s = number(found["clients"], family)
            name = runtime_name(family)
            if age_s is not None:
                ages[name] = min(age_s, ages.get(name, age_s))
        for name, age_s in ages.items():
            yield name, f"served {show_duration(age_s)} ago"
        if not ages:
            yield "runtimes", "none was served since the start"
    refusal = section(served, "last_refusal")
    if refusal:
        what = f"status {number(refusal, 'status') or 0:.0f} for {text(refusal, 'kind')} of {text(refusal, 'upstream')}"
        age = show_duration(number(refusal, "age_s") or 0)
        yield "last error", f"{age} ago: {what}, asked by {runtime_name(text(refusal, 'client'))}"


def _downloads(found: Status) -> Rows:
    downloads, swarm = section(found, "downloads"), section(found, "swarm")
    origin, peer = number(downloads, "origin_bytes"), number(downloads, "peer_bytes")
    if origin is None or peer is None:
        return
    yield "from registries", show_size(int(origin))
    share = f", {100 * peer / (origin + peer):.0f} % of what came" if origin + peer else ""
    yield "from neighbours", f"{show_size(int(peer))}{share}"
    yield "to neighbours", show_size(int(number(swarm, "sent_bytes") or 0))
    yield "now", f"{number(downloads, 'active') or 0:.0f} blobs on their way"
    wrong = {
        f"{count:.0f} {name}"
        for key, name in (
            ("corrupt", "blobs"),
            ("corrupt_pieces", "pieces of neighbours"),
            ("unusable_answers", "answers of registries"),
        )
        if (count := number(downloads, key))
    }
    if wrong:
        yield "discarded", f"{', '.join(sorted(wrong))}: they were not what their digests say"


def _swarm(found: Status) -> Rows:
    swarm = section(found, "swarm")
    if not swarm:
        return
    if not text(swarm, "host"):
        yield "scheduler", "none is configured: this node pulls from registries, and shares with nobody"
        return
    place = swarm.get("place")
    at = f" in {' / '.join(map(str, place))}" if isinstance(place, list) and place else ""
    yield "this host", f"{text(swarm, 'host')}{at}"
    if text(found, "advertise"):
        missed = number(swarm, "unreachable_reports") or 0
        unreached = f": {missed:.0f} hosts could not connect there" if missed else ""
        yield "address", f"{text(found, 'advertise')}, for other hosts{unreached}"
    urls = text(found, "scheduler").replace(",", " or ")
    several = items(swarm, "schedulers")
    if swarm.get("scheduler_connected") and len(several) > 1:
        yield from (("scheduler", _connection(each)) for each in several)
    elif swarm.get("scheduler_connected"):
        yield "scheduler", f"connected: {urls}"
    else:
        out_s = number(swarm, "scheduler_out_s")
        yield "scheduler", f"not connected{'' if out_s is None else f' for {show_duration(out_s)}'}: {urls}"
        yield (
            "alone",
            (
                "yes: without a scheduler new images come from registries"
                if swarm.get("alone")
                else "not yet: after scheduler_wait_s without a scheduler new images come from registries"
            ),
        )
    neighbours = number(swarm, "neighbours")
    if neighbours is not None:
        yield "neighbours", f"{neighbours:.0f} host{'' if neighbours == 1 else 's'} to exchange pieces with now"
    age_s = number(swarm, "last_error_age_s")
    if age_s is not None:
        yield "last error", f"{show_duration(age_s)} ago: {text(swarm, 'last_error')}"
    expires_s = number(swarm, "certificate_expires_s")
    if expires_s is not None:
        yield "certificate", f"good for {show_duration(expires_s)}" if expires_s else "none, or it has expired"


def _connection(scheduler: Status) -> str:
    """One of several schedulers, and how many blobs of this host are there."""
    if scheduler.get("connected"):
        blobs = number(scheduler, "blobs") or 0
        return f"connected: {text(scheduler, 'url')}, which has {blobs:.0f} of this host's blobs"
    out_s = number(scheduler, "out_s")
    since = "" if out_s is None else f" for {show_duration(out_s)}"
    return f"not connected{since}: {text(scheduler, 'url')}, others have its blobs meanwhile"


def _upstreams(found: Status) -> Rows:
    settings = found.get("upstream_settings")
    urls = {
        text(each, "name"): ", ".join(map(str, each.get("urls", ())))
        for each in (settings if isinstance(settings, list) else ())
        if isinstance(each, dict)
    }
    names = found.get("upstreams")
    for name in names if isinstance(names, list) else ():
        yield str(name), urls.get(str(name), "any registry with a public address" if name == "*" else "")


def _scheduler(found: Status) -> Rows:
    scheduler = section(found, "scheduler")
    for key, words in (
        ("hosts", "hosts: p2pd host ls"),
        ("swarms", "blobs that hosts want or hold"),
        ("members", "memberships of hosts in these"),
        ("leases", "ranges that hosts fetch from registries now"),
        ("leases_given", "such ranges since the start"),
        ("leases_overdue", "of these that brought nothing in time: the registry, or hosts, are slow"),
        ("quarantined", "hosts locked out because they lied"),
        ("tags", "tags that hosts compare now"),
    ):
        count = number(scheduler, key)
        if count is not None:
            yield key.replace("_", " "), f"{count:.0f} {words}"


_GROUPS: Final[Mapping[str, Callable[[Status], Rows]]] = {
    "Daemon": _daemon,
    "Scheduler": _scheduler,
    "Clients": _clients,
    "Downloads": _downloads,
    "Swarm": _swarm,
    "Cache": _cache,
    "Upstreams": _upstreams,
}
