"""What an operator can set: every key with its default and its meaning, and how the sources are merged.

Rules:
1. `Settings` is the one list of keys. The flags (p2pd.cli.options), the variables `P2PD_<KEY>` and the keys
   of p2pd.toml come from it, and a key's description is its flag's help.
2. Flags go before variables, those before the file, that before the defaults, key by key; lists are not joined.
3. Nothing is ignored: a key or a variable that means nothing is an error, which tells the nearest real name.
4. All problems are told at once, one line each: source, value, what is expected. Secrets are not shown.

pydantic-settings would do the merging, for 100 ms and 6 MiB at start. It takes one function.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from p2pd.notation import (
    Address,
    ConfigError,
    UpstreamSetting,
    parse_address,
    parse_count,
    parse_depth,
    parse_duration,
    parse_path,
    parse_size,
    parse_switch,
    parse_upstream,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_FILE: Final = Path("/etc/p2pd/p2pd.toml")
PREFIX: Final = "P2PD_"
FILE_VARIABLE: Final = "P2PD_CONFIG"


@dataclass(frozen=True, slots=True)
class Metavar:
    """What stands for a key's value in a flag's help."""

    name: str


Switch = Annotated[bool, PlainValidator(parse_switch)]
Count = Annotated[int, PlainValidator(parse_count), Metavar("NUMBER")]
Depth = Annotated[int, PlainValidator(parse_depth), Metavar("NUMBER")]
Size = Annotated[int, PlainValidator(parse_size), Metavar("SIZE")]
Duration = Annotated[float, PlainValidator(parse_duration), Metavar("DURATION")]
Listen = Annotated[Address, PlainValidator(parse_address), Metavar("HOST:PORT")]
Directory = Annotated[Path, PlainValidator(parse_path), Metavar("DIR")]
Upstream = Annotated[UpstreamSetting, PlainValidator(parse_upstream)]


def _key(default: object, description: str) -> Any:
    """A key. Its default is written as an operator would write it, which is how the help shows it."""
    return Field(default=default, description=description, validate_default=True)


class Settings(BaseModel):
    """The settings of one node. Durations are in seconds, sizes in bytes, rates in bytes/s (0: no limit)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Directory = _key("/var/lib/p2pd", "Directory of the cache: a new or empty one, or one that p2pd made.")
    # Before the addresses, for their validator reads it.
    allow_open: Switch = _key("false", "Let mirror and admin listen on addresses that other machines can reach.")
    mirror: Listen = _key("127.0.0.1:65001", "Where container runtimes reach the mirror. Port 0 takes a free one.")
    admin: Listen = _key("127.0.0.1:65004", "Where metrics, health, status and the cache commands are served.")
    upstream: Annotated[tuple[Upstream, ...], Metavar("NAMESPACE=URL[,URL...][;option=value...]")] = _key(
        "docker.io=https://registry-1.docker.io",
        "A registry that may be asked, and where it is reached; the first is the default one. "
        "Options: ca=FILE, username=NAME, password_file=FILE, connections=NUMBER, rate=SIZE per second. "
        "URL may be oci-layout:///PATH, a directory on this machine.",
    )
    max_bytes: Size = _key("50GiB", "Room that the cache may take; what was not used for longest is evicted first.")
    min_free_bytes: Size = _key("1GiB", "Room on the disk that the cache leaves free, whatever max_bytes allows.")
    ttl_s: Duration = _key("30d", "How long a blob that nobody asks for is kept; 0 is for ever.")
    connections_per_origin: Count = _key("16", "Connections to one origin at a time.")
    connections_per_blob: Count = _key("4", "Connections to the origin for one blob at a time.")
    origin_rate: Size = _key("0", "Bytes per second to take from one origin; 0 is no limit.")
    tag_ttl_s: Duration = _key("10s", "How long a tag's digest is remembered before the origin is asked again.")
    serve_stale_tags: Switch = _key(
        "false", "Answer with a tag's last known digest while its origin cannot be reached."
    )
    access_ttl_s: Duration = _key("300s", "How long it is remembered that an origin lets a client have a cached blob.")
    prefetch_layers: Depth = _key("3", "Layers to fetch ahead of the one that a client asks for; 0 is none.")
    client_stall_s: Duration = _key("300s", "How long a client may take no bytes before its connection is closed.")
    shutdown_grace_s: Duration = _key("30s", "How long transfers to clients may take to finish after SIGTERM.")
    log_format: Literal["auto", "human", "json"] = _key("auto", "Form of the log; auto is human on a terminal.")
    log_level: Literal["debug", "info", "warning", "error"] = _key("info", "Least level that is logged.")

    @field_validator("mirror", "admin")
    @classmethod
    def _keep_closed(cls, address: Address, info: ValidationInfo) -> Address:
        if address.is_loopback or info.data.get("allow_open", True):  # absent: wrong itself, and told of
            return address
        stake = {
            "mirror": "pull what this node caches and use the credentials of its upstreams",
            "admin": "read this node's status and empty its cache",
        }[info.field_name or ""]
        raise ConfigError(
            f"anyone who reaches this address could {stake}: listen on 127.0.0.1, "
            "or set allow_open = true if a firewall stands before it"
        )

    @field_validator("upstream", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A variable has them in one text, separated by white space."""
        if isinstance(value, str):
            return value.split()
        if isinstance(value, list | tuple):
            return value
        raise ConfigError('expected a list such as ["docker.io=https://registry-1.docker.io"]')

    @field_validator("upstream")
    @classmethod
    def _name_once(cls, upstreams: tuple[UpstreamSetting, ...]) -> tuple[UpstreamSetting, ...]:
        names = [upstream.namespace for upstream in upstreams]
        if not names:
            raise ConfigError("expected at least one upstream")
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{name} is given twice: put all its URLs into one, separated by commas")
        return upstreams


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    file: Path | None = None,
    default_file: Path = DEFAULT_FILE,
) -> Settings:
    """Merge the sources into settings. `flags` has values by key; `file` is the one that a flag names.

    Raises ConfigError, with a line for each problem.
    """
    problems: list[str] = []
    given: dict[str, _Given] = {}
    for one in (*_from_file(file, environ, default_file), *_from_environ(environ), *_from_flags(flags)):
        if one.key in Settings.model_fields:
            given[one.key] = one
        else:
            problems.append(f"{one.source}: no such key{_nearest(one)}")
    try:
        settings = Settings.model_validate({key: one.value for key, one in given.items()})
    except ValidationError as error:
        problems += [_problem(given, dict(detail)) for detail in error.errors(include_url=False)]
    if problems:
        raise ConfigError("\n".join(problems))
    return settings


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and where it was found. `prefix` begins a key there; after one, keys are in upper case."""

    key: str
    value: object
    source: str
    prefix: str = ""


def _from_file(file: Path | None, environ: Mapping[str, str], default_file: Path) -> list[_Given]:
    named = file or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    path = named or default_file
    try:
        with path.open("rb") as stream:
            content = tomllib.load(stream)
    except FileNotFoundError:
        if named is None:
            return []
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise ConfigError(f"{path}: not TOML: {error}") from None
    return [
        _Given(key, value, f"{path}: {key if key.isidentifier() else _shown(key)}") for key, value in content.items()
    ]


def _from_environ(environ: Mapping[str, str]) -> list[_Given]:
    """What the variables say. An empty one says nothing: compose files make that of what is not set."""
    return [
        _Given(name[len(PREFIX) :].lower() if name.isupper() else name, value, name, PREFIX)
        for name, value in sorted(environ.items())
        if name.startswith(PREFIX) and name != FILE_VARIABLE and value
    ]


def _from_flags(flags: Mapping[str, object]) -> list[_Given]:
    return [_Given(key, value, f"--{key.replace('_', '-')}") for key, value in flags.items()]


def _nearest(one: _Given) -> str:
    wanted = one.key.removeprefix(PREFIX).replace("-", "_").lower()
    for key in difflib.get_close_matches(wanted, Settings.model_fields, n=1, cutoff=0.5):
        return f"; did you mean {one.prefix}{key.upper() if one.prefix else key}?"
    return "; `p2pd run --help` has them all"


def _problem(given: Mapping[str, _Given], detail: Mapping[str, Any]) -> str:
    """One line about what pydantic found. It shows the one upstream that is wrong, not the list of them."""
    source = given[detail["loc"][0]].source
    value = "" if isinstance(detail["input"], list | tuple) else f" = {_shown(detail['input'])}"
    if detail["type"] == "value_error":
        return f"{source}{value}: {detail['ctx']['error']}"
    return f"{source}{value}: {detail['msg'].replace('Input should be', 'expected')}"


def _shown(value: object) -> str:
    """The value in one line of at most 200 characters. Where a password may begin, too much is left out of it."""
    text = json.dumps(value, default=str)
    text = re.sub(r"//.*@", "//[redacted]@", text)
    text = re.sub(r"(?i)(password|secret|token)=.*", r'\1=[redacted]"', text)
    return text if len(text) <= 200 else f"{text[:200]}..."
