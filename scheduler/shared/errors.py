"""The one error of what is shared."""

from __future__ import annotations


class SharedStateError(Exception):
    """Redis does not do what was asked. The text is for the operator; `is_full`: it takes nothing new."""

    def __init__(self, message: str, *, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_full = is_full
