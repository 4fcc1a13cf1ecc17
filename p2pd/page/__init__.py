"""The page of a scheduler: its files, and what a browser may do with them.

The page has no build step and loads nothing from elsewhere. The policy lets it run its own script and ask its own
server, and nothing else: no inline script or style, no frame, no form, no other host.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

FILES: Final = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The file and the media type of each path."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Of every answer to the page. Trusted Types make text that becomes markup an error."""


def read(name: str) -> bytes:
    """A file of the page."""
    return (resources.files(__name__) / name).read_bytes()
