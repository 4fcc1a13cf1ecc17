"""dockerd's HTTPS proxy: what tells dockerd of p2pd's, and of the certificates that it shows for the upstreams.

- `/etc/docker/certs.d/HOST[:PORT]/p2pd.crt`, for each upstream. dockerd reads every `*.crt` there whenever it asks,
  in addition to the system's authorities, also behind a proxy (moby, registry/registry.go `ReadCertsDirectory`). For
  docker.io it reads none (registry/service_v2.go `lookupV2Endpoints`), and has `registry-mirrors`.
- `proxies` in daemon.json, which dockerd knows since 23. An older one does not start with that key. It has its proxy
  from the environment alone, which is a drop-in of its unit.

`NO_PROXY` and `no-proxy` stay as they are: what they except goes past p2pd. A proxy that dockerd has already is never
replaced: p2pd can go through it, and then the operator gives it to p2pd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from p2pd.config.values import Address
from p2pd.configure import json_file
from p2pd.configure.runtime import (
    ConfigureError,
    NotMountedError,
    ProxyRequest,
    Reader,
    Request,
    host_for_clients,
    marked,
    text_of,
)

UNIT_DROP_INS: Final = "/etc/systemd/system/docker.service.d"
DROP_IN: Final = f"{UNIT_DROP_INS}/50-p2pd-https-proxy.conf"
UNITS: Final = "/etc/systemd/system"
ENVIRONMENT_FILES: Final = ("/etc/default/docker", "/etc/sysconfig/docker")
PROXIES: Final = "proxies"
HTTPS: Final = "https-proxy"
AUTHORITY: Final = "p2pd.crt"
HUB: Final = "docker.io"
RESTART: Final = "dockerd takes an HTTPS proxy only when it starts: systemctl restart docker"

_SET: Final = re.compile(r"^[^#;\n]*\bhttps_proxy=([^\s\"']*)", re.IGNORECASE | re.MULTILINE)


def authorities(request: Request, proxy: ProxyRequest, files: Reader, certs_d: str) -> dict[str, bytes]:
    """The certificates that dockerd is to trust for each upstream, by path.

    Raises ConfigureError if p2pd has not made one, or its file has something else.
    """
    from proxy.core.host_certificates import constrained_to  # `cryptography`, which no other runtime needs
    from proxy.local_authority import authority_file

    wanted = {}
    for name in request.upstream_names:
        if name == HUB:
            continue
        host = name.partition(":")[0]
        path = str(authority_file(Path(proxy.data), host))
        found = files.read(path)
        if found is None:
            raise ConfigureError(
                f"p2pd has no certificate for {name} yet ({path}): it makes one when it starts, or reloads, with "
                f"https_proxy and the upstream {name}. If p2pd has another directory, set data in its configuration, "
                "or P2PD_DATA here; nothing was changed"
            )
        pem = constrained_to(found, host)
        if pem is None:
            raise ConfigureError(f"{path} is no certificate of p2pd's for {host} alone; nothing was changed")
        wanted[f"{certs_d}/{name}/{AUTHORITY}"] = marked("docker", pem.decode("ascii"))
    return wanted


def refuse_other_proxy(proxy: ProxyRequest, files: Reader, values: Mapping[str, Any]) -> None:
    """Raises ConfigureError if dockerd has another HTTPS proxy."""
    places = {"daemon.json": str(_table(values).get(HTTPS) or "")}
    for path in (*_drop_ins(files), *ENVIRONMENT_FILES):
        try:
            content = files.read(path)
        except NotMountedError:
            continue
        for match in _SET.finditer("" if content is None else text_of(path, content)):
            places[path] = match[1]
    if proxy.environment:
        places["the environment of the dockerd that runs"] = proxy.environment
    for place, url in places.items():
        if url and url.rstrip("/") != proxy.url:
            shown = re.sub(r"//[^/@]*@", "//[redacted]@", url)
            raise ConfigureError(
                f"dockerd has another HTTPS proxy already, {shown} ({place}). p2pd can go through it: set HTTPS_PROXY "
                "and NO_PROXY for p2pd (a drop-in of p2pd.service), take the HTTPS proxy away from dockerd, and run "
                "this again; nothing was changed"
            )


def with_proxy(path: str, content: bytes, values: dict[str, Any], url: str) -> bytes:
    """daemon.json with the proxy. Raises ConfigureError if that cannot be done safely."""
    table = _table(values)
    if str(table.get(HTTPS) or "").rstrip("/") == url:
        return content
    member = f"{json.dumps(HTTPS)}: {json.dumps(url)}"
    if not values:
        return f"{json.dumps({PROXIES: {HTTPS: url}}, indent=2)}\n".encode()
    text = content.decode()
    found = json_file.member(text, PROXIES)
    if found is not None:
        after = json_file.put_first(text, found.value, member, is_empty=not table)
    else:
        after = json_file.put_first(text, text.index("{"), f'"{PROXIES}": {{{member}}}', is_empty=False)
    if json.loads(after) != {**values, PROXIES: {**table, HTTPS: url}}:
        raise ConfigureError(
            f"{path} is written in a way that p2pd cannot change safely; nothing was changed. "
            f'Add {member} to its "{PROXIES}" by hand.'
        )
    return after.encode()


def drop_in(files: Reader, url: str) -> dict[str, bytes]:
    """The drop-in of dockerd's unit, unless another one has the proxy. Raises ConfigureError without systemd."""
    if any(_SET.search(text_of(path, files.read(path) or b"")) for path in _drop_ins(files)):
        return {}  # what it has is this proxy: another one is refused
    if files.names(UNITS) is None:
        raise ConfigureError(
            f"there is no {UNITS} for a drop-in: start dockerd with HTTPS_PROXY={url} in its environment, and run this "
            "without --https-proxy; nothing was changed"
        )
    return {DROP_IN: marked("docker", f'[Service]\nEnvironment="HTTPS_PROXY={url}"\n')}


def excepted(request: Request, values: Mapping[str, Any]) -> list[str]:
    """What to say of upstreams that daemon.json excepts from the proxy."""
    exceptions = [one.strip().lstrip("*.") for one in str(_table(values).get("no-proxy") or "").split(",")]
    return [
        f"daemon.json excepts {name} from the proxy (no-proxy): dockerd asks it past p2pd."
        for name in request.upstream_names
        if any(one and f".{name.partition(':')[0]}".endswith(f".{one.partition(':')[0]}") for one in exceptions)
    ]


def as_configured(request: Request, listening: Address | None, data: Path, files: Reader, certs_d: str) -> Request:
    """The request with p2pd's HTTPS proxy, if dockerd's files have that: what `p2pd doctor` compares them with."""
    told = any(files.read(f"{certs_d}/{name}/{AUTHORITY}") is not None for name in request.upstream_names)
    if listening is None or not told:
        return request
    in_daemon_json = files.read(DROP_IN) is None
    proxy = ProxyRequest(f"http://{host_for_clients(listening)}", str(data), in_daemon_json=in_daemon_json)
    return replace(request, https_proxy=proxy)


def _drop_ins(files: Reader) -> list[str]:
    names = files.names(UNIT_DROP_INS) or frozenset()
    return [f"{UNIT_DROP_INS}/{name}" for name in sorted(names) if name.endswith(".conf")]


def _table(values: Mapping[str, Any]) -> dict[str, Any]:
    table = values.get(PROXIES)
    return table if isinstance(table, dict) else {}
