"""Rules for preheats: which tags are to be on which hosts, and when they are fetched.

    [[preheat]]
    match = "registry.example/team/*:v*"    `*` is any characters but `/` and `:`; `**` may have `/` in it
    to = "site=berlin"                      as of `p2pd preheat --to`; default `all`
    keep = "7d"                             default 7d
    when = "push"                           or "cron 0 2 * * *"; default push

In a variable or a flag a rule is `MATCH;to=HOSTS;keep=DURATION;when=WHEN`; in a variable each has a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from p2pd.config.cron import Cron, CronError, parse_cron
from p2pd.config.values import ConfigError, parse_duration
from peer.errors import InvalidNameError
from peer.oci.reference import parse_image_reference
from scheduler.core.preheat_hosts import SelectionError, parse_selection

MAX_RULES: Final = 1000
MAX_KEEP_S: Final = 365 * 86_400.0
MAX_MATCH: Final = 300
PUSH: Final = "push"
_DEFAULTS: Final = {"to": "all", "keep": "7d", "when": PUSH}
_STARS: Final = {"**": "[^:]*", "*": "[^/:]*"}


class PreheatRule(Struct, frozen=True):
    """Tags that are to be on some hosts. `match` is an image's full name if it has no `*`. `cron` None: on push."""

    match: str
    to: str = "all"
    keep: str = "7d"
    cron: Cron | None = None

    @property
    def is_pattern(self) -> bool:
        return "*" in self.match

    def matches(self, image: str) -> bool:
        """Whether the rule is about that image, which is named in full and by a tag."""
        parts = re.split(r"(\*\*|\*)", self.match)
        return re.fullmatch("".join(_STARS.get(part, re.escape(part)) for part in parts), image) is not None

    def __str__(self) -> str:
        when = PUSH if self.cron is None else f"cron {self.cron.text}"
        return f"{self.match};to={self.to};keep={self.keep};when={when}"


def parse_preheat_rules(value: object) -> tuple[PreheatRule, ...]:
    """Raises ConfigError, with a line for each rule that is wrong."""
    if isinstance(value, str):
        value = [line for line in value.splitlines() if line.strip()]
    if not isinstance(value, list | tuple) or len(value) > MAX_RULES:
        raise ConfigError(f'expected at most {MAX_RULES} rules: [[preheat]] with match = "registry.example/team/*:v*"')
    rules: list[PreheatRule] = []
    problems: list[str] = []
    for number, each in enumerate(value, 1):
        try:
            rules.append(each if isinstance(each, PreheatRule) else _rule(_members(each)))
        except ConfigError as error:
            problems.append(f"rule {number}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return tuple(rules)


def _members(rule: object) -> Mapping[str, Any]:
    if isinstance(rule, str):
        match, *rest = rule.split(";")
        pairs = [part.partition("=") for part in rest]
        rule = {"match": match.strip(), **{name.strip(): text.strip() for name, _, text in pairs}}
    if not isinstance(rule, Mapping):
        raise ConfigError("expected a table with match, to, keep and when")
    unknown = [str(name) for name in rule if name != "match" and name not in _DEFAULTS]
    if unknown:
        raise ConfigError(f"{unknown[0][:40]!a}: there is no such member: a rule has match, to, keep and when")
    return rule


def _rule(rule: Mapping[str, Any]) -> PreheatRule:
    texts = {**_DEFAULTS, **rule}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ConfigError("match, to, keep and when are texts")
    match, to, keep, when = texts.get("match", ""), texts["to"], texts["keep"], " ".join(texts["when"].split())
    kind, _, times = when.partition(" ")
    try:
        parse_selection((to,))
        kept_s = parse_duration(keep)
        cron = parse_cron(times) if kind == "cron" else None
    except (SelectionError, CronError) as error:
        raise ConfigError(str(error)) from None
    if not 0 < kept_s <= MAX_KEEP_S:
        raise ConfigError("keep: expected a duration of at most 365 days")
    if cron is None and when != PUSH:
        raise ConfigError("when: expected push, or cron with five fields, such as cron 0 2 * * *")
    return PreheatRule(_match(match), to, keep, cron)


def _match(match: str) -> str:
    """As given; an image's full name if it has no `*`."""
    expected = "match: expected REGISTRY/REPOSITORY:TAG, in which * stands for any characters"
    try:
        named = parse_image_reference(re.sub(r"\*+", "x", match[: MAX_MATCH + 1]))
    except InvalidNameError:
        raise ConfigError(expected) from None
    if len(match) > MAX_MATCH or "***" in match or named.digest is not None or ":" not in match.rpartition("/")[2]:
        raise ConfigError(expected)
    if "*" not in match:
        return str(named)
    first = match.partition("/")[0]
    if "/" not in match or ("*" not in first and not re.search(r"[.:]|^localhost$", first)):
        raise ConfigError(f"{expected}; the registry is part of it, such as docker.io/library/*:*")
    return match
