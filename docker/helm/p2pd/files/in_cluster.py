"""What the chart asks of Kubernetes' API, with the standard library alone: the image has no kubectl.

    in_cluster.py ACCOUNT publish-token SECRET [ARGUMENT...]  for ever: the Secret has a join token that is good
    in_cluster.py ACCOUNT wait-undone DAEMONSET SECONDS       until all of its pods are ready: removes it; 1 if late

ACCOUNT is the directory with the service account's token and the API's CA, SECRET and DAEMONSET are paths of the API,
ARGUMENTs are for `p2pd token`. What goes wrong is said and tried again.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

LOOK_AGAIN_S: Final = 300.0
TRY_AGAIN_S: Final = 2.0
ANSWER_S: Final = 10.0


class FailedError(Exception):
    """The API or p2pd did not do what was asked. It says why, without a secret."""


class Api:
    """Kubernetes' API, at `server`. The account's token is read each time: it is renewed while this runs."""

    def __init__(self, server: str, account: Path) -> None:
        self._server, self._account = server, account
        trusted = ssl.create_default_context(cafile=str(account / "ca.crt"))
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
        )

    def ask(self, path: str, patch: object = None, method: str = "GET") -> dict[str, Any]:
        """What the API tells of the object at a path, after changing it by a patch. Raises FailedError."""
        try:
            request = urllib.request.Request(  # noqa: S310  # the server is the cluster's
                self._server + path,
                data=None if patch is None else json.dumps(patch).encode(),
                method=method if patch is None else "PATCH",
                headers={
                    "Authorization": f"Bearer {(self._account / 'token').read_text().strip()}",
                    "Content-Type": "application/merge-patch+json",
                },
            )
            with self._opener.open(request, timeout=ANSWER_S) as answer:
                told = json.load(answer)
        except urllib.error.HTTPError as error:
            raise FailedError(f"Kubernetes' API answered {error.code} for {path}") from None
        except (OSError, ValueError) as error:
            raise FailedError(f"Kubernetes' API does not answer for {path}: {error}") from None
        if not isinstance(told, dict):
            raise FailedError(f"Kubernetes' API told no object for {path}")
        return told


def p2pd(*words: str) -> str:
    """What `p2pd token WORDS` prints. Raises FailedError."""
    done = subprocess.run(["p2pd", "token", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FailedError(f"p2pd token {words[0]}: {done.stderr.strip()}")
    return done.stdout


def publish(api: Api, secret: str, arguments: list[str], now: float) -> str | None:
    """Put a new token into the Secret, unless it has one that the scheduler takes. Return the id of a new one."""
    data = api.ask(secret).get("data") or {}
    try:
        held = base64.b64decode(data.get("token", "")).decode().split("_")
    except ValueError:
        held = []
    for each in json.loads(p2pd("ls", "--json", *arguments)):
        in_time = each["expires"] is None or now < each["expires"]
        if held[1:2] == [each["id"]] and in_time and each["revoked"] is None and each["uses_left"] != 0:
            return None
    text = p2pd("create", "--ttl=0", f"--note=for {secret.rpartition('/')[2]}"[:100], *arguments).strip()
    token = text.split("_")[1]
    try:
        api.ask(secret, {"data": {"token": base64.b64encode(text.encode()).decode()}})
    except FailedError:
        p2pd("revoke", token, *arguments)  # each attempt makes one
        raise
    return token


def undone(api: Api, daemonset: str) -> tuple[int, int]:
    """Of how many nodes the pods are ready, and of how many there will be; (0, -1) while that is not known."""
    found = api.ask(daemonset)
    status = found.get("status", {})
    if status.get("observedGeneration", 0) < found["metadata"]["generation"]:
        return 0, -1
    return status.get("numberReady", 0), status["desiredNumberScheduled"]


def wait_undone(api: Api, daemonset: str, patience_s: float) -> int:
    deadline, said = time.monotonic() + patience_s, ""
    while True:
        try:
            ready, nodes = undone(api, daemonset)
            if ready == nodes:
                api.ask(daemonset, method="DELETE")
                say(f"{nodes} of {nodes} nodes are undone")
                return 0
            now_said = f"{ready} of {nodes} nodes are undone" if nodes >= 0 else "no pod has been made yet"
        except FailedError as error:
            now_said = str(error)
        if now_said != said:
            say(now_said)
        said = now_said
        if time.monotonic() > deadline:
            name = daemonset.rpartition("/")[2]
            say(f"not done in {patience_s:g} s: kubectl get pods -l app.kubernetes.io/name={name} -o wide")
            return 1
        time.sleep(TRY_AGAIN_S)


def publish_for_ever(api: Api, secret: str, arguments: list[str]) -> None:
    pause_s, said = TRY_AGAIN_S, ""
    while True:
        try:
            made = publish(api, secret, arguments, time.time())
            if made is not None:
                say(f"token {made} is in {secret}")
            pause_s, said = TRY_AGAIN_S, ""
            time.sleep(LOOK_AGAIN_S)
        except FailedError as error:
            if str(error) != said:
                say(said := str(error))
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_AGAIN_S)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(argv: list[str]) -> int:
    account, command, path, *rest = argv
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    api = Api(f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}", Path(account))
    if command == "wait-undone":
        return wait_undone(api, path, float(rest[0]))
    publish_for_ever(api, path, rest)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
