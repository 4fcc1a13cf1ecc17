"""No secret that p2pd is shown stays anywhere.

Each place where a secret can stand has one of its own, and all that the daemon wrote, said and sent is searched.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

from p2pd.demo.process import DaemonProcess, command
from tests.support.images import content_of, digest_of, make_image
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S, Answering, Seen

IMAGE = make_image(content_of("layer", 300_000), content_of("upper", 2000))
LAYER = digest_of(IMAGE.layers[0])
OPEN, PRIVATE, OPERATORS, BROKEN = "library/app", "team/private", "team/operators", "team/broken"

SECRETS = {
    place: f"planted-{number}-{place.replace(' ', '-')}-Zx9"
    for number, place in enumerate(
        (
            "client token",
            "refused token",
            "malformed header",
            "URL query",
            "URL user",
            "password file",
            "origin token",
            "refresh token",
            "redirect",
            "redirect user",
            "environment",
            "cookie",
            "join token",
        )
    )
}
FORMS = {place: {secret, base64.b64encode(f"operator:{secret}".encode()).decode()} for place, secret in SECRETS.items()}


def ask(address: str, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def fill(registry: ImageRegistry, operators: ImageRegistry, elsewhere: ImageRegistry) -> None:
    for repository in (OPEN, PRIVATE, BROKEN):
        registry.push(repository, "1.0", IMAGE)
    registry.members = {PRIVATE: {f"Bearer {SECRETS['client token']}"}}
    elsewhere.put_blob("cdn", IMAGE.layers[0])
    host = elsewhere.url.removeprefix("http://")
    signed = f"http://{host}/v2/cdn/blobs/{LAYER}?X-Amz-Signature={SECRETS['redirect']}"
    registry.rules[f"/v2/{PRIVATE}/blobs/{LAYER}"] = lambda seen: (
        Answering(307, headers={"Location": signed}) if seen.method == "GET" else None
    )
    named = f"http://u:{SECRETS['redirect user']}@{host}/v2/cdn/nothing?token={SECRETS['redirect']}"
    registry.rules[f"/v2/{BROKEN}/blobs/{LAYER}"] = Answering(307, headers={"Location": named})
    operators.push(OPERATORS, "1.0", IMAGE)
    operators.members = {OPERATORS: {f"Bearer {SECRETS['origin token']}"}}
    answer = {"token": SECRETS["origin token"], "refresh_token": SECRETS["refresh token"]}
    basic = base64.b64encode(f"operator:{SECRETS['password file']}".encode()).decode()

    def token(seen: Seen) -> Answering:
        known = seen.headers.get("authorization") == f"Basic {basic}"
        return Answering(200, json.dumps(answer).encode()) if known else Answering(401, b"{}")

    operators.rules["/token"] = token


def said_by(words: tuple[str, ...], environ: dict[str, str]) -> bytes:
    argv = [sys.executable, "-m", "p2pd", *words]
    variables = {**os.environ, "P2PD_CONFIG": os.devnull, **environ}
    done = subprocess.run(argv, capture_output=True, env=variables, timeout=PATIENCE_S, check=False)
    return done.stdout + done.stderr


def bundled(directory: Path, environ: dict[str, str], daemon: DaemonProcess) -> dict[str, bytes]:
    """The files of two support bundles: one of the daemon as it is, one of a configuration that is wrong.

    The log that is given has every secret in the forms that programs write them in.
    """
    lines = [f"GET http://u:{s}@h/x?token={s} Authorization: Bearer {s}" for s in SECRETS.values()]
    log = directory / "log"
    log.write_text("\n".join([*lines, f"the password is {SECRETS['password file']}", *daemon.other_lines]))
    wrong = {"P2PD_JOIN": f"p2pd1_{SECRETS['join token']} x"}
    joining = {"P2PD_JOIN": f"p2pd1_{SECRETS['join token']}", "P2PD_SCHEDULER": "https://127.0.0.1:1"}
    found: dict[str, bytes] = {}
    for name, more in (("well", {}), ("joining", joining), ("wrong", wrong)):
        path = directory / f"{name}.tar.gz"
        said = said_by(("support-bundle", str(path), "--log", str(log)), {**environ, **more})
        found[f"support-bundle {name}"] = said
        assert path.exists(), said
        assert path.stat().st_mode & 0o777 == 0o600, said
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                file = archive.extractfile(member)
                assert file is not None
                found[f"{name}: {member.name}"] = file.read()
    assert b"ops.test" in found["well: well/settings.json"]
    assert b"p2pd_build_info" in found["well: well/metrics.txt"]
    assert b"upstream docker.io" in found["well: well/doctor.json"]
    assert b"the password is [redacted]" in found["well: well/log.txt"]
    return found


def files_in(directory: Path) -> dict[str, bytes]:
    found = {}
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # the daemon has removed it meanwhile
            if path.is_file():
                found[str(path)] = path.read_bytes()
    return found


def test_no_secret_stays(tmp_path: Path) -> None:
    said: dict[str, bytes] = {}
    (tmp_path / "password").write_text(SECRETS["password file"] + "\n")
    with ImageRegistry() as registry, ImageRegistry() as operators, ImageRegistry() as elsewhere:
        fill(registry, operators, elsewhere)
        upstreams = [
            f"docker.io={registry.url}",
            f"ops.test={operators.url};username=operator;password_file={tmp_path / 'password'}",
        ]
        flags = {
            "data": tmp_path / "data",
            "mirror": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "metrics": "127.0.0.1:0",
            "min-free-bytes": 0,
            "log-level": "debug",
            "upstream": upstreams,
        }
        daemon = DaemonProcess(command("run", flags), {"SOME_API_TOKEN": SECRETS["environment"]})
        try:
            ready = daemon.wait_for_event("ready")
            mirror, admin = ready["mirror"], ready["admin"]

            def get(repository: str, path: str, authorization: str | None = None, **more: str) -> int:
                headers = {**({"Authorization": authorization} if authorization else {}), **more}
                status, body = ask(mirror, f"/v2/{repository}/{path}", headers)
                said.setdefault("answers", b"")
                said["answers"] += body if status >= 400 else b""
                return status

            paths = ("manifests/1.0", *(f"blobs/{digest_of(blob)}" for blob in IMAGE.blobs))
            client = f"Bearer {SECRETS['client token']}"
            assert [get(PRIVATE, path, client, Cookie=SECRETS["cookie"]) for path in paths] == [200] * 4
            assert [get(f"ops.test/{OPERATORS}", path) for path in paths] == [200] * 4
            assert [get(PRIVATE, path, f"Bearer {SECRETS['refused token']}") for path in paths] == [401] * 4
            assert get(PRIVATE, "manifests/1.0", f"Basic {SECRETS['refused token']}") == 401
            assert get(OPEN, f"manifests/1.0?token={SECRETS['URL query']}") == 200
            assert get(OPEN, f"blobs/x?signature={SECRETS['URL query']}") >= 400
            assert get(f"u:{SECRETS['URL user']}@reg/x", "manifests/1") >= 400
            other = content_of("other", 10)
            registry.put_blob(BROKEN, other)
            assert get(BROKEN, f"blobs/{digest_of(other)}") == 200
            broken = {"Location": f"http://u:{SECRETS['redirect user']}@127.0.0.1:1/?token={SECRETS['redirect']}"}
            registry.rules[f"/v2/{BROKEN}/manifests/1.0"] = Answering(307, headers=broken)
            assert get(BROKEN, "manifests/1.0") >= 400
            for port in (mirror, admin, ready["metrics"]):
                ask(port, "/v2/", {"X-Token": SECRETS["malformed header"] * 5000})
                ask(port, "/status", {"Authorization": f"Bearer {SECRETS['malformed header']}"})
            for port, path in ((admin, "/status"), (admin, "/metrics"), (ready["metrics"], "/metrics")):
                said[f"{port}{path}"] = ask(port, path)[1]
            environ = {"P2PD_ADMIN": admin, "P2PD_MIRROR": mirror, "P2PD_DATA": str(tmp_path / "data")}
            environ["P2PD_UPSTREAM"] = upstreams[1]
            for name in (("status",), ("doctor",), ("cache", "ls")):
                said[" ".join(name)] = said_by(name, environ)
                assert b"Usage" not in said[" ".join(name)]
            said |= bundled(tmp_path, environ, daemon)
            said |= files_in(tmp_path / "data")
        finally:
            daemon.process.terminate()
            daemon.wait()
        said |= {f"{name}, stopped": content for name, content in files_in(tmp_path / "data").items()}
        said["log"] = "\n".join([*daemon.other_lines, *map(json.dumps, daemon.events)]).encode()
        assert b"debug" in said["log"]
        for origin, mine in (
            (registry, {"client token", "refused token", "URL query"}),
            (operators, {"password file", "origin token", "refresh token"}),
            (elsewhere, {"redirect", "redirect user"}),
        ):
            heard = "\n".join(f"{seen.method} {seen.path} {seen.headers}" for seen in origin.seen).encode()
            for place in SECRETS.keys() - mine:
                assert not [form for form in FORMS[place] if form.encode() in heard], f"{place} was sent to another"
    found = [
        (place, where)
        for where, text in said.items()
        for place in SECRETS
        for form in FORMS[place]
        if form.encode() in text
    ]
    assert not found
