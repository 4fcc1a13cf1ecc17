"""What `p2pd top` shows of a node (`/status`) and of a cluster (`/cluster`): the lines of a screen. No I/O."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from p2pd.admin.reading import number, section, text
from p2pd.config.values import show_duration, show_size
from p2pd.top.layout import Table, bar, screen
from p2pd.top.rates import Rates

Found = Mapping[str, Any]


class View(Protocol):
    """Makes the lines of a screen of what was found at a time, by a monotonic clock."""

    def lines(self, found: Found, now: float, width: int, height: int) -> list[str]: ...


class NodeView:
    """A node: what comes in and goes out, the blobs on their way, and who gives whom."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._rates = Rates()

    def lines(self, found: Found, now: float, width: int, height: int) -> list[str]:
        downloads, swarm, cache = section(found, "downloads"), section(found, "swarm"), section(found, "cache")
        origin, peers = _of(downloads, "origin_bytes"), _of(downloads, "peer_bytes")
        sent = _of(swarm, "sent_bytes")
        rates = [self._rates.of(name, value, now) for name, value in (("o", origin), ("p", peers), ("s", sent))]
        share = f" ({100 * rates[1] / (rates[0] + rates[1]):.0f} %)" if rates[0] + rates[1] else ""
        who = text(swarm, "host") or "alone"
        up, used, most = show_duration(_of(found, "uptime_s")), _of(cache, "used_bytes"), _of(cache, "max_bytes")
        came = f"registries {_rate(rates[0])}, neighbours {_rate(rates[1])}{share}"
        top = [
            f"p2pd top: node {who} at {self._address}, up {up}, {_scheduler(swarm)}",
            f"coming in {_rate(rates[0] + rates[1])}: {came}; going out {_rate(rates[2])}",
            f"since the start: registries {_size(origin)}, neighbours {_size(peers)}, sent {_size(sent)}",
            f"cache: {_size(used)} of {_size(most)}",
        ]
        tables = [self._arriving(found, now), self._neighbours(found, now)]
        self._rates.forget(now - 60)
        return screen(top, tables, width, height)

    def _arriving(self, found: Found, now: float) -> Table:
        rows = []
        for each in _rows(found, "arriving"):
            size, held, blob = _of(each, "size_bytes"), _of(each, "held_bytes"), text(each, "blob")
            rate = self._rates.of(("blob", blob), held, now)
            how = "ahead" if each.get("background") else "client"
            done = bar(held / size) if size else "size unknown"
            rows.append(
                (
                    blob.removeprefix("sha256:"),
                    text(each, "upstream"),
                    how,
                    _size(size) if size else "-",
                    done,
                    _rate(rate),
                )
            )
        head = ("BLOB", "FROM", "FOR", ">SIZE", "HELD", ">RATE")
        return Table(f"BLOBS ON THEIR WAY: {len(rows)}", head, rows)

    def _neighbours(self, found: Found, now: float) -> Table:
        rows = []
        for each in _rows(found, "neighbours"):
            host, given, got = text(each, "host"), _of(each, "given_bytes"), _of(each, "got_bytes")
            gives, gets = self._rates.of(("from", host), given, now), self._rates.of(("to", host), got, now)
            where = "other" if each.get("far") else "same"
            rows.append((gives + gets, (host, where, _rate(gives), _rate(gets), _size(given), _size(got))))
        rows.sort(key=lambda row: -row[0])
        head = ("HOST", "SITE", ">GIVES US", ">GETS", ">GAVE US", ">GOT")
        return Table("WHO GIVES WHOM", head, [row for _, row in rows], "nothing was exchanged yet")


class ClusterView:
    """A cluster: pulls going on and the latest, sites and zones, and hosts with problems."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._rates = Rates()

    def lines(self, found: Found, now: float, width: int, height: int) -> list[str]:
        cluster = section(found, "cluster")
        pulls = [row for row in section(found, "pulls").values() if isinstance(row, dict)]
        received = sum(_of(pull, "received_bytes") for pull in pulls)
        origin = sum(min(_of(pull, "origin_bytes"), _of(pull, "received_bytes")) for pull in pulls)
        distinct = sum(_of(pull, "size_bytes") for pull in pulls)
        copies = f", {origin / distinct:.2f} copies of each byte" if distinct else ""
        hosts, pulling = _of(cluster, "hosts"), _of(cluster, "pulling")
        top = [
            f"p2pd top: cluster of {self._schedulers(cluster)}: {hosts:.0f} hosts, {pulling:.0f} pulling",
            *_lacking(cluster),
            f"coming in {_rate(_of(cluster, 'rate_bytes_per_s'))}",
            f"last day: {_size(received)}, of it {_size(origin)} from registries{copies}",
        ]
        live = [pull for pull in pulls if pull.get("ended_at") is None]
        ended = sorted(
            (pull for pull in pulls if pull.get("ended_at") is not None), key=lambda pull: -_of(pull, "ended_at")
        )
        tables = [
            Table("PULLS GOING ON", _PULL_HEAD, [self._pull(pull, now) for pull in live]),
            self._places(found),
            _troubles(found),
            Table("PULLS OF THE LAST DAY", _ENDED_HEAD, [_ended(pull) for pull in ended]),
        ]
        self._rates.forget(now - 60)
        return screen(top, tables, width, height)

    def _schedulers(self, cluster: Found) -> str:
        count = _of(cluster, "schedulers")
        return f"{count:.0f} schedulers, asked at {self._address}" if count > 1 else f"the scheduler at {self._address}"

    def _pull(self, pull: Found, now: float) -> tuple[str, ...]:
        received, left = _of(pull, "received_bytes"), _of(pull, "left_bytes")
        rate = self._rates.of(_of(pull, "number"), received, now)
        return (
            _repository(pull),
            f"{_of(pull, 'hosts'):.0f}",
            _size(_of(pull, "size_bytes")),
            bar(received / (received + left)) if received + left else "",
            _copies(pull),
            _rate(rate),
            show_duration(left / rate) if rate and left else "-",
        )

    @staticmethod
    def _places(found: Found) -> Table:
        rows = sorted(
            (row for row in section(found, "places").values() if isinstance(row, dict)),
            key=lambda row: (-_of(row, "pulling"), -_of(row, "hosts")),
        )
        shown = [
            (
                " / ".join(filter(None, (text(row, "site"), text(row, "zone")))) or "(no site named)",
                *(f"{_of(row, name):.0f}" for name in ("hosts", "pulling", "serving")),
                _rate(_of(row, "rate_bytes_per_s")),
                f"{_of(row, 'problems'):.0f}",
            )
            for row in rows
        ]
        return Table("SITES AND ZONES", ("PLACE", ">HOSTS", ">PULLING", ">SERVING", ">RATE", ">PROBLEMS"), shown)


_PULL_HEAD = ("REPOSITORY", ">HOSTS", ">SIZE", "DONE", ">COPIES", ">RATE", ">LEFT")
_ENDED_HEAD = ("REPOSITORY", ">HOSTS", ">SIZE", ">RECEIVED", ">REGISTRY", ">COPIES", ">TOOK", ">ENDED")


def _lacking(cluster: Found) -> list[str]:
    """A line that says what is not in these figures, if anything is not."""
    if problem := text(cluster, "problem"):
        return [f"of this scheduler alone: {problem}"]
    untold = _of(cluster, "untold")
    return [f"without those of {untold:.0f} of the schedulers, which have told nothing lately"] if untold else []


def _ended(pull: Found) -> tuple[str, ...]:
    began, ended = _of(pull, "began_at"), _of(pull, "ended_at")
    return (
        _repository(pull),
        f"{_of(pull, 'hosts'):.0f}",
        *(_size(_of(pull, name)) for name in ("size_bytes", "received_bytes", "origin_bytes")),
        _copies(pull),
        show_duration(ended - began),
        f"{show_duration(max(0.0, time.time() - ended))} ago",
    )


def _troubles(found: Found) -> Table:
    rows = [
        (text(each, "id"), "; ".join(map(str, each.get("problems", ()))))
        for each in section(found, "troubles").values()
        if isinstance(each, dict)
    ]
    rows += [
        (text(each, "id"), f"in quarantine: {text(each, 'reason')}")
        for each in section(found, "quarantined").values()
        if isinstance(each, dict)
    ]
    in_all = len(section(found, "quarantined")) + _of(section(found, "cluster"), "troubles_in_all")
    return Table(f"HOSTS WITH PROBLEMS: {in_all:.0f}", ("HOST", "WHAT IS WRONG"), rows)


def _rows(found: Found, name: str) -> list[Found]:
    rows = found.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _of(found: Found, name: str) -> float:
    return number(found, name) or 0.0


def _repository(pull: Found) -> str:
    return f"{text(pull, 'upstream')}/{text(pull, 'repository')}"


def _copies(pull: Found) -> str:
    size = _of(pull, "size_bytes")
    return f"{_of(pull, 'origin_bytes') / size:.2f}" if size else "-"


def _size(size_bytes: float) -> str:
    return show_size(int(size_bytes))


def _rate(bytes_per_s: float) -> str:
    return f"{show_size(int(bytes_per_s))}/s" if bytes_per_s >= 1 else "-"


def _scheduler(swarm: Found) -> str:
    if not text(swarm, "host"):
        return "no scheduler"
    return "with its scheduler" if swarm.get("scheduler_connected") else "without its scheduler"
