"""The secret of a node's admin port: a file in the node's directory that only the node's own user can read.

The daemon makes a new secret at every start. Its file has two lines: the secret, and the address of the admin port. The
command line shows the secret to that port alone: another program that listens where the daemon is expected learns
nothing. It shows the secret on this machine alone, since the admin port has no TLS (`is_on_this_machine`).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from p2pd.config.values import Address, ConfigError, parse_address
from peer.errors import P2pdError
from peer.store.disk import read_file, write_durably

log = structlog.get_logger("p2pd.admin.secret")

NAME = "admin-secret"


class NoSecretError(P2pdError):
    """The secret of the daemon cannot be read, or is for another port."""


@contextmanager
def secret_in(directory: Path, secret: str, port: Address) -> Iterator[None]:
    """Keep the secret of `port` in the directory while the block runs. If that fails, nobody has the secret."""
    file = directory / NAME
    try:
        write_durably(file, f"{secret}\n{port}\n".encode())
    except OSError as error:
        text = "the secret of the admin port could not be kept: the cache commands do not work"
        log.warning(text, path=str(file), error=error.strerror)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def authorization(secret: str) -> str:
    """The header field that shows the secret."""
    return f"Bearer {secret}"


def shows(field: str, secret: str) -> bool:
    """Whether the header field shows the secret."""
    return hmac.compare_digest(field.encode("utf-8", "surrogateescape"), authorization(secret).encode())


def is_on_this_machine(there: str, here: str) -> bool:
    """Whether a connection between these addresses stays on this machine.

    Nobody else has an address of this machine: Linux drops what comes from outside with such a source.
    """
    return there == here or Address(there, 0).is_loopback


def read_secret(directory: Path, port: Address) -> str:
    """The secret of the daemon at `port`. Raises NoSecretError."""
    file = directory / NAME
    try:
        secret, _, address = read_file(file).decode().strip().partition("\n")
        of_daemon = parse_address(address)
    except FileNotFoundError:
        raise NoSecretError(
            f"the daemon at {port} wants its secret, and {directory} has none: name its directory with --data"
        ) from None
    except (OSError, ValueError, ConfigError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it has none in it"
        raise NoSecretError(f"{file} cannot be read: {reason}; run this as the user of the daemon, or root") from None
    if of_daemon.port != port.port:
        raise NoSecretError(
            f"the daemon that uses {directory} has its admin port at {of_daemon}, not at {port}: name it with --admin"
        )
    return secret
