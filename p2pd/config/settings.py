"""The settings: every key with its default and its meaning, and the merging of the sources.

Rules:
1. `Settings` is the one list of keys. The flags (p2pd.cli.options), the variables `P2PD_<KEY>` and the keys
   of p2pd.toml come from it, and a key's description is its flag's help.
2. For each key, flags win over variables, variables over the file, the file over the defaults. Lists are not joined.
3. Nothing is ignored: an unknown key or variable is an error, which names the nearest known one.
4. All problems are reported at once, one line each: source, value, expected form. Secrets are not shown.

pydantic and pydantic-settings would do this, at a cost of 17 MiB and 160 ms at start (the bars are 64 MiB and 600 ms
for the whole daemon). The parsers are in `p2pd.config.values`; this module calls each of them on its key.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from p2pd.config.preheat_rules import PreheatRule, parse_preheat_rules
from p2pd.config.values import (
    Address,
    ConfigError,
    UpstreamSetting,
    one_of,
    parse_address,
    parse_collector,
    parse_count,
    parse_depth,
    parse_directories,
    parse_duration,
    parse_file_names,
    parse_free_room,
    parse_label,
    parse_networks,
    parse_optional_address,
    parse_optional_path,
    parse_path,
    parse_port,
    parse_redis,
    parse_redis_prefix,
    parse_room,
    parse_share,
    parse_size,
    parse_switch,
    parse_token_text,
    parse_upstreams,
    parse_urls,
)
from peer.core.eviction import DiskShare
from scheduler.shared.redis_url import RedisAt

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_FILE: Final = Path("/etc/p2pd/p2pd.toml")
PREFIX: Final = "P2PD_"
FILE_VARIABLE: Final = "P2PD_CONFIG"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the settings. `default` is as an operator would write it; `metavar` stands for its value in help."""

    parse: Callable[[object], Any]
    default: str
    description: str
    metavar: str
    secret: bool = False
    """Whether its value is never shown."""


def _key(
    parse: Callable[[object], Any], default: str, description: str, metavar: str = "", *, secret: bool = False
) -> Any:
    key = Key(parse, default, description, metavar, secret)
    return field(default=parse(default), metadata={"key": key}, repr=not secret)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one node. Durations are in seconds, sizes in bytes, rates in bytes/s (0: no limit)."""

    data: Path = _key(
        parse_path,
        "/var/lib/p2pd",
        "Directory of the cache, or of a scheduler's CA: a new or empty one, or one that p2pd made.",
        "DIR",
    )
    mirror: Address = _key(
        parse_address, "127.0.0.1:65001", "Where runtimes reach the mirror. Port 0 takes a free one.", "HOST:PORT"
    )
    admin: Address = _key(
        parse_address, "127.0.0.1:65004", "Where metrics, health, status and the cache commands are.", "HOST:PORT"
    )
    metrics: Address | None = _key(
        parse_optional_address,
        "",
        "Where the metrics are too, and nothing else: other machines may reach it.",
        "HOST:PORT",
    )
    https_proxy: Address | None = _key(
        parse_optional_address,
        "",
        "Where dockerd's HTTPS proxy is: it answers for the upstreams, and passes all else on. None: there is no such"
        " port. See `p2pd configure docker --https-proxy`.",
        "HOST:PORT",
    )
    peer: Address | None = _key(
        parse_optional_address,
        "",
        "Where other hosts get pieces. Port 0 takes a free one. Without an address it is on loopback; a node that is "
        "alone has none then.",
        "HOST:PORT",
    )
    advertise: Address | None = _key(
        parse_optional_address,
        "",
        "The address at which other hosts reach peer, if it is another; of a scheduler with redis, at which hosts reach"
        " listen.",
        "HOST:PORT",
    )
    scheduler: tuple[str, ...] = _key(
        parse_urls,
        "",
        "A scheduler to join, as https://HOST:65003 with join, else http://; several share the blobs. None: one"
        " inside, if advertise or a port of peer or listen says that there are other hosts.",
        "URL",
    )
    listen: Address = _key(
        parse_address,
        "127.0.0.1:0",
        "Where a scheduler takes hosts: the one inside this node, or one alone.",
        "HOST:PORT",
    )
    allow_open: bool = _key(
        parse_switch,
        "false",
        "Let this node listen on addresses that other machines can reach, and exchange private content without"
        " certificates.",
    )
    join: str = _key(
        parse_token_text,
        "",
        "A token of the cluster to join, from `p2pd token create` beside its scheduler: hosts and schedulers then show"
        " each other certificates, over TLS.",
        "TOKEN",
        secret=True,
    )
    join_file: Path | None = _key(parse_optional_path, "", "A file with that token.", "FILE")
    tls_dir: Path | None = _key(
        parse_optional_path,
        "",
        "A directory with a certificate that another system gives this host or scheduler, and renews. Its URI is"
        " spiffe://CLUSTER/host/ID or spiffe://CLUSTER/scheduler.",
        "DIR",
    )
    tls_files: tuple[str, str, str] = _key(
        parse_file_names, "tls.crt,tls.key,ca.crt", "The files there: certificate, key, CA.", "NAME,NAME,NAME"
    )
    ca_cert: Path | None = _key(
        parse_optional_path, "", "A CA for a scheduler alone to issue with, instead of one that it makes.", "FILE"
    )
    ca_key: Path | None = _key(parse_optional_path, "", "The key of that CA.", "FILE")
    redis: RedisAt | None = _key(
        parse_redis,
        "",
        "Of a scheduler alone: the Redis or Valkey in which several schedulers share what they must. rediss is with"
        " TLS; redis+sentinel://HOST:PORT,HOST:PORT/SERVICE and redis+cluster://HOST:PORT,HOST:PORT find it by"
        " Sentinel, or as a cluster.",
        "URL",
        secret=True,  # a password may be in it
    )
    redis_password_file: Path | None = _key(
        parse_optional_path, "", "A file with the password for redis, which is then in no URL.", "FILE"
    )
    redis_ca: Path | None = _key(
        parse_optional_path, "", "The CA of redis with TLS, if the system does not trust it.", "FILE"
    )
    redis_prefix: str = _key(
        parse_redis_prefix, "p2pd", "What all keys in redis begin with: one for each cluster that uses it.", "NAME"
    )
    pieces: Literal["encrypted", "plain", "tls"] = _key(
        one_of("encrypted", "plain", "tls"),
        "encrypted",
        "How pieces go between hosts with certificates: encrypted; plain, for networks that encrypt already (WireGuard,"
        " Cilium), authenticated all the same; or over TLS, at a higher cost.",
        "encrypted|plain|tls",
    )
    certificate_ttl_s: float = _key(
        parse_duration, "24h", "How long a certificate is good that a scheduler issues.", "DURATION"
    )
    upstream: tuple[UpstreamSetting, ...] = _key(
        parse_upstreams,
        "docker.io=https://registry-1.docker.io",
        "An upstream that may be asked, and where it is reached; the first is the default one. "
        "Options: ca=FILE, username=NAME, password_file=FILE, token_hosts=HOST[,HOST...], connections=NUMBER, "
        "rate=SIZE per second, trace=true. "
        "URL may be oci-layout:///PATH, a directory on this machine, or https://HOST/v2/PROJECT, a project of a "
        "registry. NAME alone is https://NAME. * is every registry that a client names, without credentials of p2pd's.",
        "NAME=URL[,URL...][;option=value...]",
    )
    allow_private: tuple[str, ...] = _key(
        parse_networks,
        "",
        "Hosts, addresses and networks inside that an upstream outside may lead to, by a redirect or for a token, and "
        "that the upstream * may be.",
        "HOST|NETWORK",
    )
    max_bytes: int | DiskShare = _key(
        parse_room,
        "50%",
        "Room that the cache may take, also as a part of the disk; what was not used for longest is evicted first.",
        "SIZE|PERCENT",
    )
    min_free_bytes: int | DiskShare = _key(
        parse_free_room,
        "auto",
        "Room on the disk that the cache leaves free, whatever max_bytes allows. auto is 20% where there is a kubelet, "
        "which acts below that; elsewhere it is at most half of what others leave free.",
        "SIZE|PERCENT|auto",
    )
    ttl_s: float = _key(
        parse_duration, "30d", "How long a blob that nobody asks for is kept; 0 is for ever.", "DURATION"
    )
    scrub_rate: int = _key(
        parse_size,
        "8MiB",
        "Bytes per second at which the cache is read through for what has rotted on the disk; 0 is never.",
        "SIZE",
    )
    adopt: tuple[Path, ...] = _key(
        parse_directories,
        "",
        "Content stores of container runtimes: what is in them is held without being stored again. Of containerd, and "
        "of dockerd with the containerd image store, it is io.containerd.content.v1.content below the root; podman and "
        "CRI-O have none.",
        "DIR",
    )
    adopt_keep: bool = _key(
        parse_switch,
        "false",
        "Keep what p2pd fetched when a runtime of adopt has it too, in the same blocks where the file system can share "
        "them. Else the runtime's file alone is left, and gone once the runtime removes it.",
    )
    connections_per_origin: int = _key(
        parse_count,
        "16",
        "Connections to one origin at a time: of a node, and of all hosts of its scheduler.",
        "NUMBER",
    )
    connections_per_blob: int = _key(parse_count, "4", "Of these, for one blob.", "NUMBER")
    origin_rate: int = _key(parse_size, "0", "Bytes per second to take from one origin; 0 is no limit.", "SIZE")
    tag_ttl_s: float = _key(
        parse_duration, "10s", "How long a tag's digest is remembered before the origin is asked again.", "DURATION"
    )
    serve_stale_tags: bool = _key(
        parse_switch,
        "false",
        "While a tag's origin cannot be reached, answer with the digest that the origin gave last: to this host, or to "
        "most of the hosts that asked for the tag, at least two, if this host never did.",
    )
    access_ttl_s: float = _key(
        parse_duration, "300s", "How long it is remembered that an origin lets a client have a blob.", "DURATION"
    )
    prefetch_layers: int = _key(
        parse_depth, "3", "Layers to fetch ahead of the one that a client asks for; 0 is none.", "NUMBER"
    )
    scheduler_wait_s: float = _key(
        parse_duration,
        "3s",
        "How long to do without a scheduler before the origin is asked without one. One that is there has three times"
        " that to answer.",
        "DURATION",
    )
    upload_slots: int = _key(parse_count, "3", "Pieces sent to other hosts at a time.", "NUMBER")
    upload_rate: int = _key(parse_size, "0", "Bytes per second to send to other hosts; 0 is no limit.", "SIZE")
    download_rate: int = _key(parse_size, "0", "Bytes per second to take from other hosts; 0 is no limit.", "SIZE")
    background_transport: Literal["http", "bittorrent"] = _key(
        one_of("http", "bittorrent"),
        "http",
        "How pieces that no client waits for come from other sites: http; or bittorrent, over uTP, which gives way to"
        " all other traffic on the line. It needs the extra p2pd[bittorrent].",
        "http|bittorrent",
    )
    background_port: int = _key(
        parse_port,
        "65007",
        "The UDP port at which other sites get them, or the next that is free of the ten after it.",
        "PORT",
    )
    site: str = _key(parse_label, "", "Where this host is; hosts of a site share its way to the others.", "NAME")
    zone: str = _key(parse_label, "", "Where in the site this host is.", "NAME")
    rack: str = _key(parse_label, "", "Where in the zone this host is; hosts of a rack are preferred.", "NAME")
    client_stall_s: float = _key(
        parse_duration, "300s", "How long a client may take no bytes before its connection is closed.", "DURATION"
    )
    shutdown_grace_s: float = _key(
        parse_duration, "30s", "How long transfers to clients may take to finish after SIGTERM.", "DURATION"
    )
    log_format: Literal["auto", "human", "json"] = _key(
        one_of("auto", "human", "json"), "auto", "Form of the log; auto is human on a terminal.", "auto|human|json"
    )
    log_level: str = _key(
        one_of("debug", "info", "warning", "error"), "info", "Least level that is logged.", "debug|info|warning|error"
    )

    traces: str = _key(
        parse_collector,
        "",
        "Where traces go: an OpenTelemetry collector, by OTLP over HTTP. None: nothing is traced. It needs the extra "
        "p2pd[tracing].",
        "URL",
    )
    trace_share: float = _key(
        parse_share, "100%", "The share of requests that is traced of clients that send no context of a trace.", "SHARE"
    )

    preheat: tuple[PreheatRule, ...] = _key(
        parse_preheat_rules,
        "",
        "Of a scheduler: a rule for tags that hosts are to have before clients ask, as [[preheat]] in the file. *: any "
        "characters but / and :. WHEN is push, or cron with five fields.",
        "MATCH[;to=HOSTS][;keep=DURATION][;when=WHEN]",
    )

    pull_history: float = _key(
        parse_duration,
        "0",
        "Of a scheduler: for how long it remembers which images were pulled at which site, and pushed, for"
        " `p2pd predict`; 0 is not at all.",
        "DURATION",
    )
    predict: Literal["off", "advise", "act"] = _key(
        one_of("off", "advise", "act"),
        "off",
        "Of a scheduler with pull_history: whether it predicts what will be pulled, for `p2pd predict` alone (advise),"
        " or to preheat it (act).",
        "off|advise|act",
    )
    predict_bytes: int = _key(
        parse_size, "20GiB", "What preheats of predictions may fetch in each site, in a day (UTC).", "SIZE"
    )
    predict_model: Literal["auto", "last", "ewma", "push", "ewma+push", "river"] = _key(
        one_of("auto", "last", "ewma", "push", "ewma+push", "river"),
        "auto",
        "The model. river learns, and needs the extra p2pd[predict]; auto is river where that is, else ewma+push.",
        "auto|MODEL",
    )

    @property
    def has_certificate(self) -> bool:
        """Whether this host is to have a certificate: one that it has, by a token, or from a directory."""
        by_tls = any(url.startswith("https://") for url in self.scheduler)
        return by_tls or bool(self.join or self.join_file or self.tls_dir)

    @property
    def is_alone(self) -> bool:
        """Whether there are no other hosts: no scheduler is named, and no port at which others would find this node."""
        here = [each for each in (self.peer, self.listen) if each is not None]
        named = self.scheduler or self.advertise or any(each.port or not each.is_loopback for each in here)
        return not named and not self.has_certificate

    @property
    def named_upstreams(self) -> tuple[UpstreamSetting, ...]:
        """The upstreams but `*`, one at least; the first is the default one."""
        return tuple(upstream for upstream in self.upstream if not upstream.is_any_host)

    @property
    def any_host(self) -> UpstreamSetting | None:
        """The upstream `*`, if the operator has it."""
        return next((upstream for upstream in self.upstream if upstream.is_any_host), None)


KEYS: Final[Mapping[str, Key]] = {each.name: each.metadata["key"] for each in fields(Settings)}
"""Every key by name."""

_AT_STAKE: Final = {
    "peer": "get every blob that this node holds, private ones too",
    "listen": "join as a host, get every blob that other hosts hold, and tell them what pieces are",
    "mirror": "pull what this node caches and use the credentials of its upstreams",
    "admin": "read this node's status and metrics",
    "https_proxy": "connect to other hosts from this one, pull what this node caches and use the credentials of its "
    "upstreams",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and by key the place of each that is not the default: `/etc/p2pd/p2pd.toml:12`, a variable, a flag."""

    settings: Settings
    places: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where settings are read, also again while a daemon runs. For the fields see `load`."""

    flags: Mapping[str, object]
    environ: Mapping[str, str]
    file: Path | None = None
    default_file: Path = DEFAULT_FILE
    defaults: Mapping[str, str] = field(default_factory=dict)
    authenticated: Collection[str] = ()

    def read(self) -> Loaded:
        """Merge them. Raises ConfigError, with a line for each problem."""
        return _merged(self)


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    file: Path | None = None,
    default_file: Path = DEFAULT_FILE,
    defaults: Mapping[str, str] | None = None,
    authenticated: Collection[str] = (),
) -> Settings:
    """Merge the sources into settings. `flags` has values by key; `file` is the one that a flag names.

    `defaults` are a command's own, for keys that mean something else to it than to `p2pd run`. `authenticated` are the
    listeners at which the command lets in nobody without a certificate.

    Raises ConfigError, with a line for each problem.
    """
    return Sources(flags, environ, file, default_file, defaults or {}, authenticated).read().settings


def _merged(sources: Sources) -> Loaded:
    problems: list[str] = []
    given: dict[str, _Given] = {}
    in_file = _from_file(sources.file, sources.environ, sources.default_file)
    for one in (*in_file, *_from_environ(sources.environ), *_from_flags(sources.flags)):
        if one.key in KEYS:
            given[one.key] = one
        else:
            problems.append(f"{one.source}: no such key{_nearest(one)}")
    values: dict[str, Any] = {key: KEYS[key].parse(text) for key, text in sources.defaults.items()}
    for one in given.values():
        try:
            values[one.key] = KEYS[one.key].parse(one.value)
        except ConfigError as error:
            problems += [_problem(one, line) for line in str(error).splitlines()]
    settings = Settings(**values)
    if "allow_open" not in given or "allow_open" in values:  # else the one problem is told already
        problems += _open_addresses(settings, given, sources.authenticated)
    problems += _contradictions(settings, given)
    if problems:
        raise ConfigError("\n".join(problems))
    return Loaded(settings, {key: one.place or one.source for key, one in given.items()})


def open_listeners(settings: Settings, names: Collection[str], authenticated: Collection[str] = ()) -> dict[str, str]:
    """What anyone could do who reaches those of these listeners that are not on loopback, by the listeners' names.

    A listener that lets in nobody without a certificate is not among them.
    """
    closed = {*authenticated, *(["peer"] if settings.has_certificate else [])}
    return {
        name: stake
        for name, stake in _AT_STAKE.items()
        if name in names and name not in closed and (at := getattr(settings, name)) is not None and not at.is_loopback
    }


def _open_addresses(settings: Settings, given: Mapping[str, _Given], authenticated: Collection[str]) -> list[str]:
    """A problem for each listener that other machines can reach without the operator's explicit permission."""
    if settings.allow_open:
        return []
    return [
        _problem(
            given[name],
            f"anyone who reaches this address could {stake}: listen on 127.0.0.1, "
            f"{'join a cluster (join), ' if name == 'peer' else ''}"
            "or set allow_open = true if a firewall stands before it",
        )
        for name, stake in open_listeners(settings, given, authenticated).items()
    ]


def _contradictions(settings: Settings, given: Mapping[str, _Given]) -> list[str]:
    """A problem for each key that makes no sense with the others."""
    is_set = {name for name in ("join", "join_file", "tls_dir", "ca_cert", "ca_key") if getattr(settings, name)}
    problems = [
        _problem(given[name], f"{name} and {other} are given together or not at all")
        for name, other in (("ca_cert", "ca_key"), ("ca_key", "ca_cert"))
        if name in is_set and other not in is_set
    ]
    if settings.predict != "off" and not settings.pull_history:
        problems.append(_problem(given["predict"], "it needs a history of pulls: set pull_history, for example to 90d"))
    problems += [
        _problem(given[name], f"it does not go with {other}: hosts and schedulers have certificates from one place")
        for name, other in (
            ("join_file", "join"),
            ("join", "tls_dir"),
            ("join_file", "tls_dir"),
            ("ca_cert", "tls_dir"),
        )
        if {name, other} <= is_set
    ]
    problems += [
        _problem(given[name], f"{name} is for redis: give redis too")
        for name in ("redis_password_file", "redis_ca")
        if getattr(settings, name) is not None and settings.redis is None
    ]
    if settings.redis is not None and settings.redis.password and settings.redis_password_file is not None:
        problems.append(_problem(given["redis_password_file"], "redis has a password in its URL already: give one"))
    return problems


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and its source. `prefix` is the beginning of a key there; keys behind a prefix are in upper case.

    `place` is where in the source it is, if the source has places.
    """

    key: str
    value: object
    source: str
    prefix: str = ""
    place: str = ""


def _from_file(file: Path | None, environ: Mapping[str, str], default_file: Path) -> list[_Given]:
    named = file or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    path = named or default_file
    try:
        text = path.read_bytes().decode()
        content = tomllib.loads(text)
    except FileNotFoundError:
        if named is None:
            return []
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise ConfigError(f"{path}: not TOML: {error}") from None
    return [
        _Given(
            key,
            value,
            f"{path}: {key if key.isidentifier() else _shown(key)}",
            place=f"{path}:{_line_of(key, text)}" if key in KEYS else "",
        )
        for key, value in content.items()
    ]


def _line_of(key: str, text: str) -> int:
    """The line of `text`, which is TOML, on which it has `key`: what stands before the line is TOML without the key."""
    for match in re.finditer(rf"^[ \t]*(?:[\"']?{key}[\"']?[ \t]*=|\[\[{key}\]\])", text, re.MULTILINE):
        before = text[: match.start()]
        with suppress(tomllib.TOMLDecodeError):  # the line is within a text of several lines
            if key not in tomllib.loads(before):
                return before.count("\n") + 1
    return 1  # a spelling that nobody uses, such as an escape within the key


def _from_environ(environ: Mapping[str, str]) -> list[_Given]:
    """The values of the variables. An empty variable counts as unset: compose files make empty ones of unset ones."""
    return [
        _Given(name[len(PREFIX) :].lower() if name.isupper() else name, value, name, PREFIX)
        for name, value in sorted(environ.items())
        if name.startswith(PREFIX) and name != FILE_VARIABLE and value
    ]


def _from_flags(flags: Mapping[str, object]) -> list[_Given]:
    return [_Given(key, value, f"--{key.replace('_', '-')}") for key, value in flags.items()]


def _nearest(one: _Given) -> str:
    wanted = one.key.removeprefix(PREFIX).replace("-", "_").lower()
    for key in difflib.get_close_matches(wanted, KEYS, n=1, cutoff=0.5):
        return f"; did you mean {one.prefix}{key.upper() if one.prefix else key}?"
    return "; `p2pd run --help` has them all"


def _problem(one: _Given, problem: str) -> str:
    """One line about a value. Of a list, only the wrong element is shown."""
    hidden = isinstance(one.value, list | tuple) or (one.key in KEYS and KEYS[one.key].secret)
    value = "" if hidden else f" = {_shown(one.value)}"
    return f"{one.source}{value}: {problem}"


def _shown(value: object) -> str:
    """The value in one line of at most 200 characters. Everything is left out from where a password may begin."""
    text = json.dumps(value, default=str)
    text = re.sub(r"//.*@", "//[redacted]@", text)
    text = re.sub(r"(?i)(password|secret|token)=.*", r'\1=[redacted]"', text)
    return text if len(text) <= 200 else f"{text[:200]}..."
