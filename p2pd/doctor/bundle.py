"""What `p2pd support-bundle` collects for those who help: a part for each question, and no secret in any.

Rules:
1. A part that cannot be had has the reason in its place: a bundle is made of whatever state the node is in.
2. No part holds a secret on purpose. Beyond that, all text passes the log's redaction, and the secrets that are known
   here (passwords, join token, the admin port's secret) are taken out wherever they stand.
3. Not collected: digests and names of what is cached, which are as good as the content where another door is open; the
   configuration file itself, whose comments may hold anything.
"""

from __future__ import annotations

import base64
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from p2pd.admin.client import AdminClient
from p2pd.admin.secret import NAME as SECRET_FILE
from p2pd.config.settings import KEYS, Settings
from p2pd.config.sources import PREFIX
from p2pd.config.upstream_setting import UpstreamSetting
from p2pd.configure.runtimes import RUNTIMES
from p2pd.daemon.logs import redacted
from p2pd.doctor.environment import Environment
from p2pd.doctor.run import run_checks
from p2pd.doctor.running import in_force
from peer.errors import P2pdError
from peer.store.disk import read_file

LOG_LINES: Final = 1000
UNITS: Final = ("p2pd", "p2pd-scheduler")
RUN_WITHIN_S: Final = 10.0
_JOIN_TOKEN: Final = re.compile(r"p2pd1_[A-Za-z0-9_-]+")
_REDACTED: Final = "[redacted]"
_LEAST_SECRET: Final = 4
"""Characters: a shorter password would take every such text out of the bundle."""

Part = Callable[[], str]


def parts_of(settings: Settings, problem: str, around: Environment, log_file: Path | None = None) -> dict[str, str]:
    """The texts of a bundle by the names of their files. `problem`: what is wrong with the settings."""
    running = in_force(settings, around)
    admin = f"http://{settings.admin}"
    parts: dict[str, Part] = {
        "versions.txt": _versions,
        "doctor.json": lambda: _json(
            [{**asdict(one), "level": one.level.value} for one in run_checks(settings, around)]
        ),
        "settings.json": lambda: _json({"problem": problem, "settings": shown(settings), "variables": _variables()}),
        "status.json": lambda: _json(AdminClient(settings.admin).status()),
        "hosts.json": lambda: _json(AdminClient(settings.admin).hosts()),
        "metrics.txt": lambda: around.get(f"{admin}/metrics").body.decode(errors="replace"),
        "ready.json": lambda: around.get(f"{admin}/readyz").body.decode(errors="replace"),
        "disk.txt": lambda: _disk(running, around),
        "log.txt": lambda: _log(log_file),
    }
    secrets = _secrets(settings) | _secrets(running)
    return {name: without_secrets(_had(part), secrets) for name, part in parts.items()}


def write_bundle(path: Path, parts: Mapping[str, str], now_s: float) -> None:
    """Write a .tar.gz that only this user can read. Raises FileExistsError, OSError."""
    top = path.name.partition(".")[0]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in parts.items():
            content = text.encode(errors="replace")
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mtime, member.mode = len(content), int(now_s), 0o600
            archive.addfile(member, io.BytesIO(content))


def shown(settings: Settings) -> dict[str, object]:
    """Each key and its value, as far as it is no secret."""
    values = {name: getattr(settings, name) for name in KEYS}
    return {name: _REDACTED if KEYS[name].secret and value else _plain(value) for name, value in values.items()}


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets, and without what looks like one."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _REDACTED)
    return _JOIN_TOKEN.sub(_REDACTED, redacted(text))


def _secrets(settings: Settings) -> set[str]:
    """The secrets that can be read here, in the forms that they travel in."""
    files = [
        settings.join_file,
        settings.data / SECRET_FILE,
        *(each.password_file for each in settings.named_upstreams),
    ]
    users = [each.username for each in settings.named_upstreams if each.username]
    found = {settings.join}
    for file in files:
        try:
            found.add(read_file(file).decode().partition("\n")[0].strip() if file is not None else "")
        except (OSError, ValueError):
            continue
    found |= {base64.b64encode(f"{user}:{secret}".encode()).decode() for user in users for secret in found if secret}
    return {secret for secret in found if len(secret) >= _LEAST_SECRET}


def _had(part: Part) -> str:
    try:
        return part()
    except (P2pdError, OSError, subprocess.SubprocessError) as error:
        return f"not to be had: {error}\n"


def _json(found: object) -> str:
    return json.dumps(found, indent=2, default=str) + "\n"


def _plain(value: Any) -> object:
    if isinstance(value, UpstreamSetting):
        # Not the user's name: it is a half of a credential.
        rows = {**asdict(value), "username": None, "has_credentials": value.username is not None}
        return {key: _plain(each) for key, each in rows.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _variables() -> list[str]:
    """The names of p2pd's variables that are set; a value may be a secret."""
    return sorted(name for name in os.environ if name.startswith(PREFIX))


def _versions() -> str:
    lines = [f"p2pd {metadata.version('p2pd')}", f"python {sys.version}", f"system {platform.platform()}"]
    lines += [f"{name} {metadata.version(name)}" for name in ("aiohttp", "uvloop", "cryptography", "blake3")]
    for program in sorted({each for runtime in RUNTIMES.values() for each in runtime.programs}):
        path = shutil.which(program)
        if path is not None:
            lines.append(f"{path}: {_said_by(path, '--version').strip()}")
    return "\n".join([*lines, f"made {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}", ""])


def _disk(settings: Settings, around: Environment) -> str:
    space, owner = around.space(settings.data), around.owner(settings.data)
    return _json(
        {
            "directory": str(settings.data),
            "space": None if space is None else asdict(space),
            "owner": None if owner is None else {"uid": owner.uid, "mode": f"{owner.mode:o}"},
        }
    )


def _log(file: Path | None) -> str:
    """The last lines of the log: of `file`, or of the units' journal."""
    if file is not None:
        return "".join(file.read_text(errors="replace").splitlines(keepends=True)[-LOG_LINES:])
    journalctl = shutil.which("journalctl")
    if journalctl is None:
        return "not to be had: there is no journal here; give --log FILE\n"
    units = [f"--unit={unit}" for unit in UNITS]
    return _said_by(journalctl, *units, f"--lines={LOG_LINES}", "--no-pager", "--output=short-iso")


def _said_by(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=RUN_WITHIN_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        return f"not to be had: {error}"
    return (done.stdout + done.stderr).decode(errors="replace")
