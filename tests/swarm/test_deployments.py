"""The files in docker/ that set a cluster up: nothing is open in them, and p2pd runs with just what stands there.

Only places on the disk, ports and the addresses of others are replaced.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shlex
import ssl
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml

from p2pd.cli.options import SCHEDULER_DATA
from p2pd.config.settings import KEYS
from p2pd.demo.process import DaemonProcess, join_token, output_of
from tests.support.client import ask
from tests.support.images import content_of
from tests.support.kubernetes_api import KubernetesApi
from tests.support.ports import free_port
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import REPOSITORY, UPSTREAM
from tests.swarm.process import Process, started

DOCKER: Final = Path(__file__).parents[2] / "docker"
DATA: Final = KEYS["data"].default
LOCAL: Final = {"P2PD_MIRROR": "127.0.0.1:0", "P2PD_ADMIN": "127.0.0.1:0", "P2PD_MIN_FREE_BYTES": "0"}
"""Ports of this machine that the files leave as they are by default, and what a small disk asks for."""


def with_free_ports(text: str) -> tuple[str, dict[str, str]]:
    """The text with other ports for p2pd's own, and those ports by the ones that they stand for."""
    ports = {port: str(free_port()) for port in sorted(set(re.findall(r"\b650[0-2][0-9]\b", text)))}
    return re.sub(r"\b650[0-2][0-9]\b", lambda found: ports[found[0]], text), ports


async def run(stack: AsyncExitStack, words: list[str], environ: Mapping[str, str]) -> Process:
    """`p2pd WORDS …` as it stands in a file, with the variables from there."""
    argv = [sys.executable, "-m", "p2pd", *words]
    variables = {"P2PD_CONFIG": os.devnull, "P2PD_LOG_FORMAT": "json", **environ}
    return await started(stack, argv, variables, DaemonProcess)


async def takes_part(node: Process, registry: ImageRegistry) -> None:
    """It has a certificate, a scheduler, and serves a blob of the registry."""
    await node.until_connected()
    assert (await node.swarm())["certificate_expires_s"] > 0
    content = content_of("layer", 5000)
    assert (await node.blob(registry.put_blob(REPOSITORY, content))).body == content


FILES: Final = sorted(file for file in DOCKER.rglob("*") if file.is_file() and file.suffix != ".pyc")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DOCKER)))
def test_nothing_is_open(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if not re.match(r" *#", line)]
    assert not [line for line in lines if re.search("allow.open", line, re.IGNORECASE)]


# -- Kubernetes --------------------------------------------------------------------------------------------------------


class Pod:
    """A container of a workload's pod, the first one if it is not named. Each volume of the pod is a directory below
    `directory`, with the content that is given; what is there already stays."""

    def __init__(
        self, spec: Mapping[str, Any], directory: Path, content: Mapping[str, Mapping[str, str]], name: str = ""
    ) -> None:
        self.container = next(each for each in spec["containers"] if name in ("", each["name"]))
        self._places: dict[str, Path] = {}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for mount in self.container["volumeMounts"]:
            place = self._places[mount["mountPath"]] = directory / mount["name"]
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            source = volumes[mount["name"]]
            for kind, key in (("configMap", "name"), ("secret", "secretName")):
                for file, text in content.get(source[kind][key], {}).items() if kind in source else ():
                    (place / file).write_text(text)

    def place(self, mount_path: str) -> Path:
        return self._places[mount_path]

    def environ(self, given: Mapping[str, str]) -> dict[str, str]:
        """The container's variables; `given` are those that Kubernetes makes."""
        known = dict(given)
        for each in self.container.get("env", []):
            value = each.get("value", given.get(each["name"], ""))
            known[each["name"]] = self.word(re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], value))
        return known

    def word(self, text: str) -> str:
        """A text of the container, with the places of this machine."""
        return re.sub("|".join(map(re.escape, self._places)), lambda found: str(self._places[found[0]]), text)

    async def is_healthy(self) -> None:
        """All probes are answered as Kubernetes wants them to be."""
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        trusting_anybody = ssl.create_default_context()
        trusting_anybody.check_hostname = False
        trusting_anybody.verify_mode = ssl.CERT_NONE
        async with aiohttp.ClientSession() as session:
            for name in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = self.container[name]["httpGet"]
                scheme, port = probe.get("scheme", "HTTP").lower(), ports.get(probe["port"], probe["port"])
                url = f"{scheme}://127.0.0.1:{port}{probe['path']}"
                async with session.get(url, ssl=trusting_anybody) as answer:
                    assert answer.status == 200, url


def test_kubernetes(tmp_path: Path, registry: ImageRegistry) -> None:
    """The scheduler makes a token, the container beside it publishes that, and a node joins with it."""
    text, ports = with_free_ports((DOCKER / "kubernetes.yaml").read_text())
    objects = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}
    content = {name: each["data"] for (kind, name), each in objects.items() if kind == "ConfigMap"}
    (role,) = objects["Role", "scheduler"]["rules"]

    async def main(api: KubernetesApi) -> None:
        async with asyncio.timeout(2 * PATIENCE_S), AsyncExitStack() as stack:
            spec = objects["Deployment", "scheduler"]["spec"]["template"]["spec"]
            pod = Pod(spec, tmp_path / "scheduler", content)
            claims = [each["persistentVolumeClaim"] for each in spec["volumes"] if "persistentVolumeClaim" in each]
            assert claims == [{"claimName": "scheduler"}], "the CA lives on"
            assert ("PersistentVolumeClaim", "scheduler") in objects
            data = {"P2PD_DATA": str(pod.place(SCHEDULER_DATA))}
            await run(stack, pod.container["args"], pod.environ({}) | data | {"P2PD_ADMIN": "127.0.0.1:0"})
            await pod.is_healthy()
            assert b"p2pd_scheduler_hosts 0.0" in (await ask(f"127.0.0.1:{ports['65006']}", "GET", "/metrics")).body

            publisher = Pod(spec, tmp_path / "scheduler", content, "token")
            path = f"/api/v1/namespaces/p2pd/secrets/{role['resourceNames'][0]}"
            api.objects[path] = objects["Secret", role["resourceNames"][0]]
            argv = [publisher.word(each) for each in publisher.container["command"] + publisher.container["args"]]
            environ = os.environ | api.environ | data | {"PATH": f"{program(tmp_path)}:{os.environ['PATH']}"}
            published = await asyncio.create_subprocess_exec(*argv, env=environ)
            try:
                while "data" not in api.objects[path]:  # noqa: ASYNC110 # another process
                    await asyncio.sleep(0.05)
            finally:
                published.kill()
                await published.wait()
            secrets = {key: base64.b64decode(value).decode() for key, value in api.objects[path]["data"].items()}

            pod = Pod(
                objects["DaemonSet", "p2pd"]["spec"]["template"]["spec"],
                tmp_path / "node",
                content | {role["resourceNames"][0]: secrets},
            )
            (port,) = objects["Service", "scheduler"]["spec"]["ports"]
            given = {
                "NODE_IP": "127.0.0.1",
                "SCHEDULER_SERVICE_HOST": "127.0.0.1",
                "SCHEDULER_SERVICE_PORT": str(port["port"]),
            }
            environ = pod.environ(given)
            assert environ["P2PD_METRICS"] == f"127.0.0.1:{ports['65006']}"
            replaced = {
                "P2PD_METRICS": "127.0.0.1:0",  # the scheduler, which is on this machine too, has that port
                "P2PD_MIN_FREE_BYTES": "0",
                "P2PD_CONFIG": str(pod.place("/etc/p2pd") / "p2pd.toml"),
                "P2PD_DATA": str(pod.place(DATA)),
                "P2PD_UPSTREAM": f"{UPSTREAM}={registry.url}",
            }
            node = await run(stack, pod.container["args"], environ | replaced)
            await takes_part(node, registry)
            assert b"\np2pd_" in (await ask(node.at["metrics"], "GET", "/metrics")).body
            await pod.is_healthy()

    with KubernetesApi(tmp_path / "account") as api:
        account = tmp_path / "scheduler" / "api"
        account.parent.mkdir()
        account.symlink_to(api.account)
        asyncio.run(main(api))


def program(directory: Path) -> Path:
    """A directory for PATH with the program `p2pd` of this tree."""
    (place := directory / "bin").mkdir()
    (place / "p2pd").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m p2pd "$@"\n')
    (place / "p2pd").chmod(0o755)
    return place


# -- systemd -----------------------------------------------------------------------------------------------------------


class Unit:
    """A unit file. With `all_of_it`, the settings that it has as comments for nodes of a cluster too."""

    def __init__(self, name: str, credentials: Path, *, all_of_it: bool) -> None:
        text = (DOCKER / name).read_text()
        settings = re.findall(rf"^{'#?' if all_of_it else ''}([A-Za-z]+)=(.*)$", text, re.MULTILINE)
        (argv,) = [shlex.split(value) for key, value in settings if key == "ExecStart"]
        assert argv[0] == "/opt/p2pd/bin/p2pd"
        self.words = argv[1:]
        (self.state,) = [f"/var/lib/{value}" for key, value in settings if key == "StateDirectory"]
        self.loaded = dict(value.split(":") for key, value in settings if key == "LoadCredential")
        variables = [word for key, value in settings if key == "Environment" for word in shlex.split(value)]
        self.environ = dict(each.replace("%d", str(credentials)).split("=", 1) for each in variables)


def test_the_units_of_systemd(tmp_path: Path, registry: ImageRegistry) -> None:
    (credentials := tmp_path / "credentials").mkdir()
    scheduler, node = (Unit(name, credentials, all_of_it=True) for name in ("p2pd-scheduler.service", "p2pd.service"))
    assert (scheduler.state, node.state) == (SCHEDULER_DATA, DATA)
    assert scheduler.environ["P2PD_DATA"] == SCHEDULER_DATA

    async def main() -> None:
        async with asyncio.timeout(2 * PATIENCE_S), AsyncExitStack() as stack:
            data = tmp_path / "scheduler"
            replaced = {"P2PD_DATA": str(data), "P2PD_ADMIN": "127.0.0.1:0", "P2PD_LISTEN": "0.0.0.0:0"}
            assert scheduler.environ["P2PD_LISTEN"] == "0.0.0.0:65003"
            at = (await run(stack, scheduler.words, scheduler.environ | replaced)).at["listen"]
            assert set(node.loaded) == {"join", "hub"}
            (credentials / "join").write_text(await asyncio.to_thread(join_token, data))
            (credentials / "hub").write_text("a password\n")
            in_toml = {"P2PD_SCHEDULER": f"https://127.0.0.1:{at.rpartition(':')[2]}", "P2PD_PEER": "127.0.0.1:0"}
            joined = await run(
                stack, node.words, node.environ | in_toml | LOCAL | {"P2PD_DATA": str(tmp_path / "node")}
            )
            await joined.until_connected()
            assert (await joined.swarm())["certificate_expires_s"] > 0

            alone = Unit("p2pd.service", credentials, all_of_it=False)
            replaced = {"P2PD_DATA": str(tmp_path / "alone"), "P2PD_UPSTREAM": f"{UPSTREAM}={registry.url}"}
            lone = await run(stack, alone.words, alone.environ | LOCAL | replaced)
            assert "peer" not in lone.at

    asyncio.run(main())


# -- compose -----------------------------------------------------------------------------------------------------------


def test_compose(tmp_path: Path, registry: ImageRegistry) -> None:
    """Its services one after the other, each as the user that they share, with volumes as directories."""
    text, _ = with_free_ports((DOCKER / "compose.yaml").read_text())
    services = yaml.safe_load(text)["services"]
    nodes = [service for name, service in services.items() if name.startswith("node")]
    (token := tmp_path / "token").mkdir()
    data = tmp_path / "ca"

    def environ_of(service: Mapping[str, Any], directory: Path) -> dict[str, str]:
        mounted = dict(volume.split(":")[1::-1] for volume in service["volumes"])
        file = Path(service["environment"]["P2PD_JOIN_FILE"])
        assert {DATA, str(file.parent)} == set(mounted)
        assert mounted[str(file.parent)] == "token"
        replaced = {
            "P2PD_JOIN_FILE": str(token / file.name),
            "P2PD_DATA": str(directory),
            "P2PD_UPSTREAM": f"{UPSTREAM}={registry.url}",
            "P2PD_MIN_FREE_BYTES": "0",
        }
        return {**service["environment"], **replaced}

    async def main() -> None:
        async with asyncio.timeout(2 * PATIENCE_S), AsyncExitStack() as stack:
            scheduler = services["scheduler"]
            listen = {"P2PD_LISTEN": nodes[0]["environment"]["P2PD_SCHEDULER"].removeprefix("https://")}
            assert scheduler["volumes"] == [f"ca:{SCHEDULER_DATA}"]
            await run(stack, scheduler["command"], scheduler["environment"] | listen | {"P2PD_DATA": str(data)})

            (*_, script) = services["token"]["entrypoint"]
            words, file = re.fullmatch(r"umask 077 && p2pd (.*) > (.*)", script).groups()  # type: ignore[union-attr]
            assert services["token"]["volumes"] == [*scheduler["volumes"], f"token:{Path(file).parent}"]
            text = await asyncio.to_thread(output_of, *words.split(), f"--data={data}")
            (token / Path(file).name).write_text(text)

            alone = {"P2PD_MIRROR": "127.0.0.1:0", "P2PD_ADMIN": "127.0.0.1:0"}  # node1: the default ports
            started = [
                await run(stack, ["run"], alone | environ_of(service, tmp_path / f"node{number}"))
                for number, service in enumerate(nodes)
            ]
            for node in started:
                await takes_part(node, registry)
            assert len({node.at[key] for node in started for key in ("mirror", "peer", "admin")}) == 3 * 3

    asyncio.run(main())
