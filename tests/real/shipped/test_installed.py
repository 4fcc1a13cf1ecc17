"""The Debian package and the archive, on a machine that has booted: with systemd, and the units as they are."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.real.image import REPOSITORY, Image
from tests.real.programs import Program, ProgramError, wait_until
from tests.real.registry import Registry, basic_auth
from tests.real.shipped.conftest import PYTHON, Shipped
from tests.real.shipped.debian import Machine
from tests.real.shipped.pull import Pull
from tests.real.web import Credentials, get
from tests.support.ports import free_port
from tests.support.registry_server import PATIENCE_S
from tests.swarm.released import PACKAGES, released
from tests.trust.fixtures import credentials
from tests.trust.fixtures import host as host_identity
from tests.trust.fixtures import scheduler as scheduler_identity
from tests.trust.test_directory import fill

PULLER: Final = Credentials("puller", "a password")
SITE_PACKAGES: Final = f"opt/p2pd/lib/python{PYTHON}/site-packages"
UNITS: Final = ("p2pd.service", "p2pd-scheduler.service")
DAY_S: Final = 86400.0
BEFORE: Final = "0.0.1"
CACHE: Final = "/var/lib/private/p2pd"
CA: Final = "/var/lib/private/p2pd-scheduler"


class Addresses(NamedTuple):
    mirror: str
    admin: str


@pytest.fixture
def private(place: Path, storage: Path, registry: Registry) -> Iterator[Registry]:
    """A registry with the image that only `PULLER` may read."""
    started = Registry(place, storage, basic_auth(place, PULLER))
    yield started
    started.stop()


@pytest.fixture
def at(machine: Machine) -> Addresses:
    """Where the node is that the units start. Other ports than the default ones may be in use here."""
    mirror, admin, listen, scheduler_admin = (f"127.0.0.1:{free_port()}" for _ in range(4))
    machine.write("/etc/default/p2pd", f"P2PD_MIRROR={mirror}\nP2PD_ADMIN={admin}\nP2PD_MIN_FREE_BYTES=0\n")
    machine.write("/etc/default/p2pd-scheduler", f"P2PD_LISTEN={listen}\nP2PD_ADMIN={scheduler_admin}\n")
    return Addresses(mirror, admin)


@pytest.fixture
def before(place: Path, machine: Machine, shipped: Shipped) -> str:
    """A package of the released version: this one's, with the released sources. Its path in the machine."""
    root = "/root/before"
    machine.run("dpkg-deb", "--raw-extract", machine.put(shipped.deb), root)
    released(place / "released")
    site_packages = machine.root / "root/before" / SITE_PACKAGES
    for package in PACKAGES:
        shutil.rmtree(site_packages / package)
        shutil.copytree(place / "released" / package, site_packages / package)
    shutil.copytree(Path(msgpack.__file__).parent, site_packages / "msgpack")  # what those need, and these do not
    machine.run("python3", "-m", "compileall", "-q", *(f"{root}/{SITE_PACKAGES}/{package}" for package in PACKAGES))
    machine.run("sed", "-i", f"s/^Version: .*/Version: {BEFORE}/", f"{root}/DEBIAN/control")
    machine.run("dpkg-deb", "-Znone", "--root-owner-group", "--build", root, f"{root}.deb")
    return f"{root}.deb"


def configure(machine: Machine, upstreams: str) -> None:
    machine.write("/etc/p2pd/p2pd.toml", f"upstream = [{upstreams}]\n")


def answer(mirror: str, upstream: str, digest: str) -> int:
    """The status that a blob of the upstream is answered with."""
    return get(f"http://{mirror}/v2/{REPOSITORY}/blobs/{digest}?ns={upstream}").status


def join_by_certificates(machine: Machine) -> None:
    """A scheduler and a node of its cluster, with certificates in files that root alone can read."""
    identities = (host_identity("one"), scheduler_identity())
    for unit, identity in zip(UNITS, identities, strict=True):
        directory = f"etc/p2pd/{unit}"
        fill(machine.root / directory, credentials(identity, lifetime_s=DAY_S))
        files = list((machine.root / directory).iterdir())
        for file in files:
            file.chmod(0o600)
        loaded = "\n".join(f"LoadCredential={file.name}:/{directory}/{file.name}" for file in files)
        machine.write(f"/etc/systemd/system/{unit}.d/tls.conf", f"[Service]\n{loaded}\nEnvironment=P2PD_TLS_DIR=%d\n")
    listen = dict(line.split("=") for line in machine.read("/etc/default/p2pd-scheduler").splitlines())["P2PD_LISTEN"]
    node = machine.read("/etc/default/p2pd")
    machine.write("/etc/default/p2pd", f"{node}P2PD_SCHEDULER=https://{listen}\nP2PD_PEER=127.0.0.1:0\n")
    machine.run("systemctl", "daemon-reload")


def left_over(machine: Machine) -> list[str]:
    """Programs, units and pages of p2pd."""
    places = ("opt", "usr/bin", "usr/local", "usr/share", "usr/lib/systemd/system", "etc/systemd/system")
    found = [path for place in places for path in (machine.root / place).rglob("*p2pd*")]
    return [str(path.relative_to(machine.root)) for path in found]


def check_manual(machine: Machine, share: str) -> None:
    """The shells and `man` find what is about each command."""
    assert "P2PD-CACHE-LS" in machine.run("sh", "-ec", f"zcat {share}/man/man1/p2pd-cache-ls.1.gz")
    found = "bash --norc -ic 'source {}/bash-completion/completions/p2pd; complete -p p2pd'"
    assert "_p2pd_completion" in machine.run("sh", "-ec", found.format(share))


def test_the_package(
    machine: Machine,
    at: Addresses,
    before: str,
    shipped: Shipped,
    private: Registry,
    registry: Registry,
    image: Image,
    place: Path,
) -> None:
    """Installed, upgraded while a blob is pulled, reloaded while one is pulled, removed, purged."""
    host, _, port = at.mirror.rpartition(":")
    with socket.create_server((host, int(port))):
        machine.run("dpkg", "--install", before)  # it does not start, and the package is installed all the same
    wait_until(lambda: machine.state("p2pd.service") == "active", "p2pd starts once its port is free")
    assert machine.state("p2pd-scheduler.service") == "inactive"

    # A password that root alone can read.
    machine.write("/etc/p2pd/hub-password", PULLER.password, mode=0o600)
    machine.write(
        "/etc/systemd/system/p2pd.service.d/hub.conf",
        "[Service]\nLoadCredential=hub:/etc/p2pd/hub-password\n",
    )
    password = f"username={PULLER.username};password_file=/run/credentials/p2pd.service/hub"
    hub = f'"docker.io={private.url};{password}"'
    configure(machine, hub)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "p2pd")

    # The upgrade restarts the node, and that waits for the pull.
    pull = Pull(at.mirror, REPOSITORY, image.weights.digest)
    replaced = machine.property("p2pd.service", "MainPID")
    upgrade = Program(
        machine.command("dpkg", "--install", machine.put(shipped.deb)), {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        place / "upgrade.log",
    )  # fmt: skip
    wait_until(lambda: machine.state("p2pd.service") == "deactivating", "the upgrade restarts p2pd", 2 * PATIENCE_S)
    pull.finish()
    assert upgrade.wait(2 * PATIENCE_S) == 0
    assert machine.state("p2pd.service") == "active"
    assert machine.property("p2pd.service", "MainPID") != replaced
    assert machine.run("dpkg-query", "--show", "--showformat=${Version}", "p2pd") != BEFORE
    assert machine.run("systemd-analyze", "verify", "--man=no", "p2pd.service", "p2pd-scheduler.service") == ""
    check_manual(machine, "/usr/share")

    # What was pulled is there still; a reload does not drop who takes it.
    pull = Pull(at.mirror, REPOSITORY, image.weights.digest)
    assert answer(at.mirror, "quay.io", image.config.digest) == 404
    configure(machine, f'{hub}, "quay.io={registry.url}"')
    machine.run("systemctl", "reload", "p2pd")
    assert answer(at.mirror, "quay.io", image.config.digest) == 200
    pull.finish()

    machine.run("systemctl", "start", "p2pd-scheduler")
    machine.run("systemctl", "reload", "p2pd-scheduler")
    assert "p2pd1" in machine.run("p2pd", "token", "create", "--data=/var/lib/p2pd-scheduler")

    machine.run("dpkg", "--remove", "p2pd")
    with pytest.raises(ProgramError):
        machine.run("systemctl", "is-active", "p2pd")
    assert machine.run("ls", f"{CACHE}/blobs")
    assert "upstream" in machine.run("cat", "/etc/p2pd/p2pd.toml")

    machine.run("dpkg", "--purge", "p2pd")
    assert machine.run("ls", "/var/lib/private").split() == ["p2pd-scheduler"]
    assert machine.run("ls", "/etc/p2pd").split() == ["hub-password"], "what the operator has put there"
    assert left_over(machine) == ["etc/systemd/system/p2pd.service.d"]


def test_the_archive(machine: Machine, at: Addresses, shipped: Shipped, registry: Registry, image: Image) -> None:
    """Installed by a root whose files nobody else reads, in a directory of others; then over what is there; removed."""
    machine.run("rm", "-rf", "/etc/systemd/system/p2pd.service.d", "/etc/p2pd", CA)
    unpack = f"tar --extract --gzip --no-same-permissions --file={machine.put(shipped.archive)} --directory=/root"
    install = f"/root/{shipped.archive.name.removesuffix('.tar.gz')}/install"
    machine.write("/srv/others/p2pd.py", "raise SystemExit('what lies about is run')\n")
    machine.run("sh", "-ec", f"umask 077; {unpack}; cd /srv/others; {install}")
    check_manual(machine, "/usr/local/share")
    configure(machine, f'"docker.io={registry.url}"')
    machine.run("systemctl", "enable", "--now", "p2pd")
    Pull(at.mirror, REPOSITORY, image.weights.digest).finish()

    replaced = machine.property("p2pd.service", "MainPID")
    machine.run(install)
    assert machine.state("p2pd.service") == "active"
    assert machine.property("p2pd.service", "MainPID") != replaced
    assert "upstream" in machine.run("cat", "/etc/p2pd/p2pd.toml"), "the operator's"
    assert image.weights.digest in machine.run("/usr/local/bin/p2pd", "cache", "ls", "--json", f"--admin={at.admin}")

    join_by_certificates(machine)
    machine.run("systemctl", "restart", "p2pd-scheduler", "p2pd")
    status = ["/usr/local/bin/p2pd", "status", "--json", f"--admin={at.admin}"]
    wait_until(lambda: json.loads(machine.run(*status))["swarm"]["scheduler_connected"], "the node joins the scheduler")

    machine.run("rm", "-r", *(f"/etc/systemd/system/{unit}.d" for unit in UNITS))
    machine.run(install, "--remove")
    assert left_over(machine) == []
    assert machine.run("ls", f"{CACHE}/blobs")
