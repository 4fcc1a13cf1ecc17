"""The notation of rates: `1gbit`, `100 Mbit/s`, `10Gbps`, or bytes, as `50MiB/s`."""

from __future__ import annotations

import re
from typing import Final

from p2pd.config.values import ConfigError, parse_size

_BITS: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([kmgt]?)(?:bit(?:/s|ps|s)?|bps)", re.ASCII | re.IGNORECASE)
_BYTES: Final = re.compile(r"([0-9]+ ?[kmgt]?i?b)(?:/s)?", re.ASCII | re.IGNORECASE)


def parse_rate(text: str) -> float:
    """Bytes per second. Raises ConfigError, also for a number without a unit: it could be bits or bytes."""
    if bits := _BITS.fullmatch(text.strip()):
        rate = float(bits[1]) * 1000.0 ** " kmgt".index(bits[2].lower() or " ") / 8
    elif size := _BYTES.fullmatch(text.strip()):
        rate = float(parse_size(size[1]))
    else:
        raise ConfigError("expected a rate with its unit, such as 100mbit, 10gbit or 50MiB/s")
    if rate < 1:
        raise ConfigError("expected a rate of at least a byte per second")
    return rate


def show_rate(rate: float) -> str:
    """A rate for people, in bits, as links are sold."""
    bits = rate * 8
    for unit in ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"):
        if bits < 1000:
            return f"{bits:.3g} {unit}"
        bits /= 1000
    return f"{bits:.3g} Tbit/s"
