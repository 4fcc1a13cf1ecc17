"""The settings: every key with its default and its meaning. `p2pd.config.sources` reads them.

`Settings` is the one list of keys. The flags (p2pd.cli.options), the variables `P2PD_<KEY>` and the keys of p2pd.toml
come from it, and a key's description is its flag's help.

pydantic and pydantic-settings would do this, at a cost of 17 MiB and 160 ms at start (the bars are 64 MiB and 600 ms
for the whole daemon). The parsers are in `p2pd.config.values`; this module calls each of them on its key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from p2pd.config.preheat_rules import PreheatRule, parse_preheat_rules
from p2pd.config.upstream_setting import UpstreamSetting, parse_upstreams
from p2pd.config.values import (
    Address,
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
    parse_urls,
)
from peer.core.eviction import DiskShare
from scheduler.shared.redis_url import RedisAt

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    upload_slots: int = _key(parse_count, "5", "Pieces sent to other hosts at a time.", "NUMBER")
    upload_rate: int = _key(parse_size, "0", "Bytes per second to send to other hosts; 0 is no limit.", "SIZE")
    download_rate: int = _key(parse_size, "0", "Bytes per second to take from other hosts; 0 is no limit.", "SIZE")
    background_transport: Literal["http", "bittorrent"] = _key(
        one_of("http", "bittorrent"),
        "http",
        "How preheats come from other hosts, and whatever no client waits for from other sites: http; or bittorrent,"
        " over uTP, which gives way to all other traffic on the line. It needs the extra p2pd[bittorrent].",
        "http|bittorrent",
    )
    background_port: int = _key(
        parse_port,
        "65008",
        "The UDP port at which other hosts get them, or the next that is free of the ten after it.",
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
