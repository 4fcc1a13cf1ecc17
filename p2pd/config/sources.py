"""Where settings are read: flags, variables and p2pd.toml, merged into `Settings`.

Rules:
1. For each key, flags win over variables, variables over the file, the file over the defaults. Lists are not joined.
2. Nothing is ignored: an unknown key or variable is an error, which names the nearest known one.
3. All problems are reported at once, one line each: source, value, expected form. Secrets are not shown.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from p2pd.config.settings import KEYS, Settings
from p2pd.config.values import ConfigError

DEFAULT_FILE: Final = Path("/etc/p2pd/p2pd.toml")
PREFIX: Final = "P2PD_"
FILE_VARIABLE: Final = "P2PD_CONFIG"

_AT_STAKE: Final = {
    "peer": "get every blob that this node holds, private ones too",
    "listen": "join as a host, get every blob that other hosts hold, and tell them what pieces are",
    "mirror": "pull what this node caches and use the credentials of its upstreams",
    "admin": "read this node's status and metrics",
    "https_proxy": "connect to other hosts from this one, pull what this node caches and use the credentials of its "
    "upstreams",
}


class Loaded(Struct, frozen=True):
    """Settings, and by key the place of each that is not the default: `/etc/p2pd/p2pd.toml:12`, a variable, a flag."""

    settings: Settings
    places: Mapping[str, str] = field(default_factory=dict)


class Sources(Struct, frozen=True):
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


class _Given(Struct, frozen=True):
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
