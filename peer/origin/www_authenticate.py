"""`WWW-Authenticate`: the challenges of a registry (RFC 9110, sections 11.2 to 11.6.1).

Rules: pure, and total. Any text gives a list: the challenges before the first place that is not understood. An address
without quotes, and parameters without a comma between them, are understood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct, field

_SEPARATORS = re.compile(r"[ \t,]*")
_SCHEME = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]+|(?=,)|\Z)")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|\Z)")
_PARAMETER = re.compile(
    r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*
        (?: "((?:[^"\\]|\\.)*)" | ([^\s",=][^\s",]*) )(?=[ \t,]|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class Challenge(Struct, frozen=True):
    """A scheme that the registry accepts. `scheme` and the parameters' names are lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(text: str) -> list[Challenge]:
    """The challenges of a `WWW-Authenticate` header. Several such headers are joined with commas before.

    A comma separates challenges, and also the parameters of a challenge. So the text after a comma is a parameter if it
    has the form of a parameter, else the next scheme. The first value of a parameter counts.
    """
    challenges: list[Challenge] = []
    at = _past_separators(text, 0)
    while scheme := _SCHEME.match(text, at):
        parameters: dict[str, str] = {}
        challenges.append(Challenge(scheme[1].lower(), parameters))
        # "Negotiate abc=": a token68 instead of parameters. It follows its scheme without a comma.
        opaque = _TOKEN68.match(text, scheme.end()) if scheme[0][-1] in " \t" else None
        at = _past_separators(text, opaque.end() if opaque else scheme.end())
        while parameter := _PARAMETER.match(text, at):
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
            parameters.setdefault(name.lower(), value)
            at = _past_separators(text, parameter.end())
    return challenges


def _past_separators(text: str, at: int) -> int:
    found = _SEPARATORS.match(text, at)
    return found.end() if found else at
