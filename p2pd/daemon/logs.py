"""The log: events on stderr, one event a line, for people on a terminal and as JSON for machines.

Rules:
1. The events of p2pd and of libraries (asyncio, aiohttp) take one path, and so pass one redaction.
2. No credential reaches the log. Redacted are values under keys that name a credential, user names, passwords and
   queries in URLs (registries sign the addresses of their content there), and the text behind `Bearer` or `Basic`.
3. Text from outside cannot forge a line or control a terminal: control characters are escaped.
4. Who logs never waits for who reads the log: lines for stderr are written by a thread (`p2pd.daemon.log_writer`).

structlog imports rich if rich is installed, for tracebacks that we do not want. That is 45 ms and 3 MiB of the 56 ms
and 3.7 MiB that structlog costs at start (2 cores, Python 3.11, after aiohttp), so rich is hidden from structlog.
"""

from __future__ import annotations

import atexit
import logging
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO, cast

from p2pd.daemon.log_writer import LogWriter

_rich = sys.modules.get("rich")
sys.modules["rich"] = cast("Any", None)  # the import system's way to say that there is no such module
try:
    import structlog
finally:
    del sys.modules["rich"]
    if _rich is not None:
        sys.modules["rich"] = _rich

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger
    from structlog.typing import EventDict, Processor

STDERR: Final = 2

_REDACTED: Final = "[redacted]"
_SECRET_KEY: Final = re.compile(
    r"authori[sz]ation|token|password|passwd|secret|cookie|credential|signature", re.IGNORECASE
)
_SECRET_TEXT: Final = (
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {_REDACTED}"),
    (re.compile(r"(?<=://)[^\s/@\"']*@"), f"{_REDACTED}@"),
    (re.compile(r"\?[^\s?=\"'<>]+=[^\s\"'<>]*"), f"?{_REDACTED}"),
)
_CONTROL: Final = {code: f"\\u{code:04x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
_CONTROL_IN_LINES: Final = {code: escape for code, escape in _CONTROL.items() if chr(code) not in "\n\t"}


def get(name: str) -> BoundLogger:
    """The logger of a module: `log.info("piece landed", digest=digest, piece=3)`.

    A module may get its logger when it is imported; `setup` decides later where the events go.
    """
    return structlog.stdlib.get_logger(name)


def setup(level: str, form: Literal["auto", "human", "json"] = "auto", stream: TextIO | None = None) -> None:
    """Send events of `level` and above to `stream`. `auto` is `human` if the stream is a terminal.

    Without a stream, the events go to stderr, and a thread writes them.
    """
    out = stream or sys.stderr
    is_terminal = out is not None and out.isatty()  # None: the daemon was started with stderr closed
    human = form == "human" or (form == "auto" and is_terminal)
    handler = logging.StreamHandler(stream) if stream else _WriterHandler(STDERR)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_ORIGIN, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.processors.StackInfoRenderer(),
                structlog.processors.format_exc_info,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact,
                _human(colors=is_terminal) if human else structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def set_level(level: str) -> None:
    """From now on, log events of `level` and above."""
    logging.getLogger().setLevel(level.upper())


def dropped_lines() -> int:
    """Lines of the log that nobody took in time, or that could not be written, since `setup`."""
    return sum(each.writer.dropped for each in logging.getLogger().handlers if isinstance(each, _WriterHandler))


def close() -> None:
    """Write what waits, within a bounded time. At the interpreter's end this is done without being asked."""
    for each in logging.getLogger().handlers:
        if isinstance(each, _WriterHandler):
            each.writer.close()


class _WriterHandler(logging.Handler):
    """Formats an event where it happens, and has a thread write the line."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.writer = LogWriter(descriptor, self._notice)
        atexit.register(self.writer.close)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.writer.put(self.format(record))
        except Exception:  # as every handler of the standard library: an event never fails who logs it
            self.handleError(record)

    def _notice(self, count: int) -> str:
        text = "lines of this log were dropped: nobody took them"
        record = logging.LogRecord("p2pd.daemon.logs", logging.WARNING, __file__, 0, text, None, None)
        record.lines = count
        return self.format(record)


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Redact and escape an event (rules 2 and 3). Only tracebacks keep their line feeds."""
    return {
        key: _visible(str(value), _CONTROL_IN_LINES) if key in ("exception", "stack") else _clean(key, value)
        for key, value in event.items()
    }


def _clean(key: object, value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_KEY.search(str(key)):
        return _REDACTED
    if isinstance(value, Mapping):
        return {str(inner): _clean(inner, each) for inner, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(key, each) for each in value]
    return _visible(str(value), _CONTROL)


def redacted(text: str) -> str:
    """The text without what is behind `Bearer` and `Basic`, and without users and queries in URLs (rule 2)."""
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _visible(text: str, escapes: Mapping[int, str]) -> str:
    return redacted(text).translate(escapes)


def _human(*, colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


_ORIGIN: Final[list[Processor]] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_ORIGIN,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
)
