"""dockerd: `registry-mirrors` in daemon.json, and a hosts.toml for each upstream.

Two stores, two ways:

- The classic store mirrors docker.io only, by `registry-mirrors`. Its requests name no registry, so the mirror serves
  them from its default upstream. The key is therefore written only if docker.io is the default upstream.
- The containerd image store (default of new installations since Docker 29) reads, for each pull and for any registry,
  /etc/docker/certs.d/<registry>/hosts.toml. If that file gives two hosts, `registry-mirrors` is not asked in addition.

Both are written, because the next start of dockerd may change the store. With `--https-proxy` the classic store has the
other registries through p2pd, too (docker_proxy.py). daemon.json is changed as text: one member or
one element is inserted at the front, and every other byte stays as it is.
"""

from __future__ import annotations

import codecs
import json
from typing import Any, Final

from p2pd.configure import docker_proxy, hosts_toml, json_file
from p2pd.configure.runtime import ConfigureError, Reader, Request, Runtime, RuntimePlan, text_of

DAEMON_JSON: Final = "/etc/docker/daemon.json"
CERTS_D: Final = "/etc/docker/certs.d"
KEY: Final = "registry-mirrors"
HUB: Final = "docker.io"


def plan(request: Request, files: Reader) -> RuntimePlan:
    """Raises ConfigureError for a daemon.json that is not a JSON object, or a hosts.toml that cannot be changed."""
    hosts = hosts_toml.plan(request, files, CERTS_D, "docker")
    content = files.read(DAEMON_JSON) or b""
    values = daemon_values(content)
    remarks = [*hosts.remarks, *_insecure(request, values)]
    if request.wildcard:
        remarks.append(
            f"dockerd's classic store mirrors {HUB} only. Its containerd image store mirrors every registry."
        )
    wanted = dict(hosts.files)
    if HUB not in request.upstream_names:
        remarks.append(f"{KEY} was left alone: it is for {HUB} only, and that is not among the upstreams.")
    elif request.default_upstream != HUB:
        remarks.append(
            f"{KEY} was left alone: dockerd's classic store names no registry in its requests, so it needs {HUB} "
            f"to be the first upstream of p2pd (that is {request.default_upstream})."
        )
    else:
        wanted[DAEMON_JSON] = _with_mirror(content, values, request.mirror_url)
    proxy = request.https_proxy
    if proxy is not None:
        wanted |= docker_proxy.authorities(request, proxy, files, CERTS_D)
        docker_proxy.refuse_other_proxy(proxy, files, values)
        if proxy.in_daemon_json:
            before = wanted.get(DAEMON_JSON, content)
            wanted[DAEMON_JSON] = docker_proxy.with_proxy(DAEMON_JSON, before, daemon_values(before), proxy.url)
            remarks.append(f"{docker_proxy.RESTART}.")
        else:
            wanted |= docker_proxy.drop_in(files, proxy.url)
        remarks += docker_proxy.excepted(request, values)
    return RuntimePlan(wanted, tuple(remarks))


def daemon_values(content: bytes) -> dict[str, Any]:
    """The members of daemon.json; none if it is empty, as for dockerd. Raises ConfigureError for any other text."""
    if content.startswith(codecs.BOM_UTF8):
        raise ConfigureError(
            f"{DAEMON_JSON} begins with a byte order mark, which dockerd does not take: save it as UTF-8 without one; "
            "nothing was changed"
        )
    try:
        values = json.loads(text_of(DAEMON_JSON, content)) if content.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ConfigureError(f"{DAEMON_JSON} is not JSON ({error}): mend it first; nothing was changed") from None
    wrong = "the file is no object" if not isinstance(values, dict) else ""
    if not wrong and not isinstance(values.get(KEY, []), list):
        wrong = f'"{KEY}" is no list'
    if not wrong and not isinstance(values.get(docker_proxy.PROXIES, {}), dict):
        wrong = f'"{docker_proxy.PROXIES}" is no object'
    if wrong:
        raise ConfigureError(f"{DAEMON_JSON} is not what dockerd takes ({wrong}): mend it first; nothing was changed")
    return values


def _with_mirror(content: bytes, values: dict[str, Any], mirror_url: str) -> bytes:
    """`content` with the mirror before all other mirrors; unchanged if the mirror is listed already."""
    mirrors = values.get(KEY, [])
    if any(str(mirror).rstrip("/") == mirror_url for mirror in mirrors):
        return content
    if not values:
        return f"{json.dumps({KEY: [mirror_url]}, indent=2)}\n".encode()
    text = content.decode()
    if (member := json_file.member(text, KEY)) is not None:
        after = json_file.put_first(text, member.value, json.dumps(mirror_url), is_empty=not mirrors)
    else:
        after = json_file.put_first(
            text, text.index("{"), f"{json.dumps(KEY)}: {json.dumps([mirror_url])}", is_empty=False
        )
    if json.loads(after) != {**values, KEY: [mirror_url, *mirrors]}:
        raise ConfigureError(
            f"{DAEMON_JSON} is written in a way that p2pd cannot change safely; nothing was changed. "
            f'Add "{mirror_url}" to its "{KEY}" by hand.'
        )
    return after.encode()


def _insecure(request: Request, values: dict[str, Any]) -> list[str]:
    insecure = values.get("insecure-registries", [])
    return [
        f"insecure-registries no longer counts for {upstream.name} in the containerd image store, which then has "
        "the address and its TLS from hosts.toml: give p2pd its http:// address, or its CA."
        for upstream in request.upstreams
        if isinstance(insecure, list)
        and upstream.name in insecure
        and not any(url.startswith("http://") for url in upstream.urls)
    ]


RUNTIME: Final = Runtime(
    name="docker",
    journal="docker",
    plan=plan,
    programs=("dockerd",),
    families=("docker",),
    activation={
        DAEMON_JSON: "dockerd reads it again on SIGHUP: systemctl reload docker",
        docker_proxy.DROP_IN: "systemctl daemon-reload && systemctl restart docker",
    },
)
