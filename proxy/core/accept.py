"""Whether a client takes a manifest of some media type: its Accept header (RFC 9110, section 12.5.1).

Only `q=0`, a refusal, is read of the weights: the origin chooses between the types that a client takes.
"""

from __future__ import annotations


def accepts(header: str, media_type: str) -> bool:
    """Whether `header` has `media_type`. A client that names no type takes any."""
    wanted = media_type.lower()
    ranges = [_range(field) for field in header.split(",") if field.strip()]
    kinds = {wanted, f"{wanted.partition('/')[0]}/*", "*/*"}
    refused = (wanted, True) in ranges
    return not ranges or (not refused and any((kind, False) in ranges for kind in kinds))


def _range(field: str) -> tuple[str, bool]:
    """A media range, and whether the client refuses it."""
    name, *parameters = (part.strip().lower() for part in field.split(";"))
    weight = next((part[2:].strip() for part in parameters if part.startswith("q=")), "1")
    return name, weight.strip("0") in ("", ".")
