"""Who is given a private image that the node holds: every client, kind of registry and credentials in the tables of
docs/private-registries.md.

A table is a situation. It has a node of its own, which pulls the image with the right credentials first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from benchmarks.programs import ROOT
from p2pd.config.own_addresses import own_addresses
from p2pd.config.values import Address
from peer.oci.manifest import ANY_MANIFEST
from peer.oci.reference import UpstreamName, upstream_as_component
from tests.real.containerd import Containerd
from tests.real.dockerd import BY_PROXY, Dockerd
from tests.real.image import TAG, Image, small_image
from tests.real.node import Node
from tests.real.origin import Origin
from tests.real.paths import new_directory
from tests.real.podman import Podman
from tests.real.private import (
    KINDS,
    NEIGHBOUR,
    NEIGHBOURING,
    OPEN,
    OWNED,
    OWNER,
    STRANGER,
    PrivateRegistry,
    start_private,
)
from tests.real.programs import ProgramError, wait_until
from tests.real.registry import Registry
from tests.real.skopeo import Skopeo, relocated
from tests.real.web import Credentials, get
from tests.support.ports import free_port

RUNTIMES: Final = "Which runtime, which registry"
ANSWERS: Final = "The registry answers"
GONE: Final = "The registry is gone"
OPERATOR: Final = "The operator's credentials"
OPERATOR_GONE: Final = "The operator's credentials, and the registry is gone"
OTHER_OPERATOR: Final = "The operator's credentials are for another repository"

OTHERS: Final = ("dockerd by proxy", "dockerd by path")
"""The clients that pull from another registry than docker.io in the tables of situations."""

OPERATORS: Final = {OPERATOR: OWNER, OPERATOR_GONE: OWNER, OTHER_OPERATOR: NEIGHBOUR}
WHO: Final = {"right": OWNER, "none": None, "wrong": STRANGER, "other": NEIGHBOUR}


class Cell(NamedTuple):
    situation: str
    kind: str
    client: str
    credentials: str
    outcome: str


def cells() -> list[Cell]:
    """What docs/private-registries.md says below the heading of each situation."""
    found = []
    text = (ROOT / "docs" / "private-registries.md").read_text(encoding="utf-8")
    for situation, section in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE):
        if situation == RUNTIMES:
            continue
        lines = [line.strip("|") for line in section.splitlines() if line.startswith("|")]
        (_, _, *credentials), _, *rows = [[part.strip() for part in line.split("|")] for line in lines]
        for clients, kinds, *outcomes in rows:
            each = product(kinds.split(", "), clients.split(", "), zip(credentials, outcomes, strict=True))
            found += [Cell(situation, *row, *outcome) for *row, outcome in each if outcome[1] != "-"]
    return sorted(found, key=lambda cell: cell[:2])  # a node is started for each two


CELLS: Final = cells()


def reach() -> list[tuple[str, str, str, str]]:
    """The cells of the first table: a client, `docker.io` or `other`, `public` or `private`, what comes of a pull."""
    text = (ROOT / "docs" / "private-registries.md").read_text(encoding="utf-8")
    section = text.partition(f"## {RUNTIMES}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|") for line in section.splitlines() if line.startswith("|")]
    (_, *columns), _, *rows = [[part.strip() for part in line.split("|")] for line in lines]
    found = [
        (client, column.partition(", ")[0], column.partition(", ")[2], outcome)
        for clients, *outcomes in rows
        for client in clients.split(", ")
        for column, outcome in zip(columns, outcomes, strict=True)
    ]
    return sorted(found, key=lambda cell: cell[2])  # a node is started for `public`, and one for `private`


@dataclass(frozen=True)
class Setting:
    """A node in a situation. `first` is what the first client sent, which was given all of the image."""

    situation: str
    registry: PrivateRegistry
    origin: Origin
    node: Node
    first: Mapping[str, str]

    @property
    def is_gone(self) -> bool:
        return self.situation in (GONE, OPERATOR_GONE)


@pytest.fixture(scope="module")
def images(workplace: Path, registry: Registry) -> dict[str, Image]:
    """The image of each repository."""
    made = {repository: small_image(workplace, repository.encode()) for repository in (OWNED, NEIGHBOURING)}
    for repository, image in made.items():
        registry.push(image, repository)
    return made


@pytest.fixture(scope="module")
def private_registry(
    workplace: Path, storage: Path, registry: Registry, images: dict[str, Image]
) -> Iterator[Callable[[str], PrivateRegistry]]:
    """The registry of a kind; each is started once."""
    with ExitStack() as started:
        registries: dict[str, PrivateRegistry] = {}

        def of_kind(kind: str) -> PrivateRegistry:
            if kind not in registries:
                registries[kind] = start_private(kind, workplace, storage, registry, started)
            return registries[kind]

        yield of_kind


@pytest.fixture(scope="module")
def enter(
    workplace: Path,
    mirror_port: int,
    proxy_port: int,
    session_dockerd: Dockerd,
    images: dict[str, Image],
    private_registry: Callable[[str], PrivateRegistry],
) -> Iterator[Callable[[str, str], Setting]]:
    """Start the node of a situation and a kind of registry. It ends the node before, whose address dockerd has."""
    with ExitStack() as started:
        entered: dict[tuple[str, str], Setting] = {}

        def enter(situation: str, kind: str) -> Setting:
            if (situation, kind) not in entered:
                entered.clear()
                started.pop_all().close()
                entered[situation, kind] = start(situation, private_registry(kind))
            return entered[situation, kind]

        def start(situation: str, registry: PrivateRegistry) -> Setting:
            place = new_directory(workplace)
            origin = registry.origin(place)
            started.callback(origin.stop)
            options, operator = origin.url, OPERATORS.get(situation)
            if operator is not None:
                password_file = place / "password"
                password_file.write_text(operator.password, encoding="utf-8")
                password_file.chmod(0o600)
                options += f";username={operator.username};password_file={password_file}"
            upstreams = ["docker.io", BY_PROXY]
            # All clients of a situation come within `access_ttl_s`, on a busy machine too.
            settings = {"https_proxy": f"127.0.0.1:{proxy_port}", "access_ttl_s": "1h"}
            named = [f"{name}={options}" for name in upstreams]
            node = Node(place, named, mirror_port, settings, session_dockerd.authority)
            started.callback(node.stop)
            is_open = operator is OWNER or registry.kind == OPEN
            first = {} if is_open else {"Authorization": registry.authorization(OWNER, OWNED)}
            for name, content in product(upstreams, [f"manifests/{TAG}", *contents(images[OWNED])]):
                assert ask(node, OWNED, f"{content}?ns={name}", first) == 200
            setting = Setting(situation, registry, origin, node, first)
            if setting.is_gone:
                origin.stop()
            return setting

        yield enter


@pytest.fixture
def setting(request: pytest.FixtureRequest, enter: Callable[[str, str], Setting]) -> Setting:
    return enter(*request.param)


@pytest.fixture(scope="module")
def pulls(
    workplace: Path, mirror_port: int, session_dockerd: Dockerd, session_containerd: Containerd
) -> dict[str, Callable[[str, Credentials | None], None]]:
    """How each client pulls a reference (`docker.io/team/owned:1`) as somebody. They raise ProgramError."""
    mirror = f"127.0.0.1:{mirror_port}"
    own = str(own_addresses(Address("127.0.0.1", mirror_port), ["docker.io", BY_PROXY])[BY_PROXY])
    by_path = upstream_as_component(UpstreamName(BY_PROXY))
    location = f'prefix = "{BY_PROXY}"\nlocation = "{own}/{by_path}"\ninsecure = true\n'
    podman = Podman(new_directory(workplace), f"{relocated(mirror)}[[registry]]\n{location}")
    skopeo = Skopeo(new_directory(workplace))

    def dockerd(reference: str, who: Credentials | None) -> None:
        session_dockerd.pull(reference, who)
        session_dockerd.remove_images()

    def dockerd_by_path(reference: str, who: Credentials | None) -> None:
        registry, _, rest = reference.partition("/")
        dockerd(f"{mirror if registry == 'docker.io' else own}/{rest}", who)

    def ctr(reference: str, who: Credentials | None) -> None:
        session_containerd.pull(reference, credentials=who)
        session_containerd.remove_images()

    def cri(reference: str, who: Credentials | None) -> None:
        session_containerd.cri.pull(reference, who)
        session_containerd.cri.remove(reference)

    def podman_logged_in(reference: str, who: Credentials | None) -> None:
        podman.log_in(mirror if reference.startswith("docker.io/") else own, who)
        podman.pull(reference)
        podman.remove_images()

    def podman_creds(reference: str, who: Credentials | None) -> None:
        podman.log_in(mirror, None)
        podman.pull(reference, who)
        podman.remove_images()

    def copy(reference: str, who: Credentials | None) -> None:
        skopeo.copy(
            f"{mirror if reference.startswith('docker.io/') else own}/{reference.replace(BY_PROXY, by_path)}", who
        )

    return {
        "dockerd": dockerd,
        "dockerd by proxy": dockerd,
        "dockerd by path": dockerd_by_path,
        "ctr": ctr,
        "CRI": cri,
        "podman": podman_logged_in,
        "podman --creds": podman_creds,
        "skopeo": copy,
    }


@pytest.mark.parametrize(
    ("setting", "client", "credentials", "outcome"),
    [((cell.situation, cell.kind), *cell[2:]) for cell in CELLS],
    ids=["-".join(cell[:4]) for cell in CELLS],
    indirect=["setting"],
)
def test_cell(
    setting: Setting,
    pulls: dict[str, Callable[[str, Credentials | None], None]],
    images: dict[str, Image],
    client: str,
    credentials: str,
    outcome: str,
) -> None:
    who = WHO[credentials]
    registry = BY_PROXY if client in OTHERS else "docker.io"
    if setting.is_gone:
        assert_pulled(pulls[client], f"{registry}/{OWNED}@{images[OWNED].index.digest}", who, outcome)
        return
    setting.origin.forget()
    assert_pulled(pulls[client], f"{registry}/{OWNED}:{TAG}", who, outcome)
    asked = setting.origin.requests()
    assert setting.origin.blob_requests() == []  # the node had it
    if outcome == "refused":  # by the registry
        assert {request.status for request in asked if request.path.startswith(f"/v2/{OWNED}/")} <= {401}
        assert asked
    # What each client shows: the registry has seen nobody else's credentials.
    operator = OPERATORS.get(setting.situation)
    is_challenged = operator is not OWNER or client == "dockerd by proxy"
    shown = who if is_challenged and client != "podman --creds" else operator
    users = {request.user for request in asked} - {""}
    assert users <= {each.username for each in (shown, operator) if each is not None}
    if operator is None and credentials == "wrong" and shown is not None and setting.registry.tokens is None:
        assert users == {STRANGER.username}


@pytest.mark.parametrize(
    ("setting", "client", "where", "outcome"),
    [
        ((ANSWERS, OPEN if access == "public" else "htpasswd"), client, where, outcome)
        for client, where, access, outcome in reach()
    ],
    ids=["-".join(cell[:3]) for cell in reach()],
    indirect=["setting"],
)
def test_which_runtime_reaches_which_registry(
    setting: Setting,
    pulls: dict[str, Callable[[str, Credentials | None], None]],
    client: str,
    where: str,
    outcome: str,
) -> None:
    who = None if setting.registry.kind == OPEN else OWNER
    name = {("docker.io", client): "docker.io", ("other", "dockerd"): "registry.invalid:5001"}.get(
        (where, client), BY_PROXY
    )
    setting.origin.forget()
    assert_pulled(pulls[client], f"{name}/{OWNED}:{TAG}", who, "image" if outcome == "works" else "refused")
    asked = {request.path for request in setting.origin.requests()}
    assert setting.origin.blob_requests() == []  # the node had it
    if outcome == "passes by":
        assert "/v2/" not in asked  # dockerd's first request
    else:
        assert outcome == "works" or (client, outcome) == ("podman --creds", "needs operator credentials")


def assert_pulled(
    pull: Callable[[str, Credentials | None], None], reference: str, who: Credentials | None, outcome: str
) -> None:
    if outcome == "image":
        pull(reference, who)
    else:
        assert outcome == "refused"
        with pytest.raises(ProgramError):
            pull(reference, who)


@pytest.mark.parametrize("setting", [(ANSWERS, kind) for kind in KINDS], ids=KINDS, indirect=True)
def test_what_the_node_holds_is_closed_to_the_reader_of_another_repository(
    setting: Setting, images: dict[str, Image]
) -> None:
    """By hand: for the content there, and for the same digests in the reader's own repository."""
    there = {"Authorization": setting.registry.authorization(NEIGHBOUR, OWNED)}
    here = {"Authorization": setting.registry.authorization(NEIGHBOUR, NEIGHBOURING)}
    expected = 200 if setting.registry.kind == "htpasswd" else 401
    for content in [f"manifests/{TAG}", *contents(images[OWNED])]:
        assert ask(setting.node, OWNED, content, there) == expected
    for content in contents(images[OWNED]):
        assert ask(setting.node, NEIGHBOURING, content, here) == 404
        assert ask(setting.node, NEIGHBOURING, content, setting.first) == (404 if expected == 200 else 401)
    assert ask(setting.node, NEIGHBOURING, f"manifests/{TAG}", here) == 200


@pytest.mark.parametrize("setting", [(ANSWERS, "htpasswd")], ids=["htpasswd"], indirect=True)
def test_dockerd_logs_in_to_the_registry_and_pushes_by_proxy(setting: Setting, session_dockerd: Dockerd) -> None:
    """As without p2pd: the registry checks the password, and has what was pushed."""
    log_in = ["login", "--username", OWNER.username, "--password"]
    session_dockerd.run_as(None, *log_in, OWNER.password, BY_PROXY)
    with pytest.raises(ProgramError, match="401 Unauthorized"):
        session_dockerd.run_as(None, *log_in, STRANGER.password, BY_PROXY)
    session_dockerd.pull(f"{BY_PROXY}/{OWNED}:{TAG}", OWNER)
    pushed = f"{BY_PROXY}/team/pushed:{TAG}"
    session_dockerd.run_as(None, "tag", f"{BY_PROXY}/{OWNED}:{TAG}", pushed)
    with pytest.raises(ProgramError, match="no basic auth credentials"):
        session_dockerd.run_as(None, "push", pushed)
    setting.origin.forget()
    session_dockerd.run_as(OWNER, "push", pushed)
    asked = setting.origin.requests()
    assert {"POST", "PUT"} <= {request.method for request in asked}
    assert {request.user for request in asked} <= {"", OWNER.username}
    session_dockerd.remove_images()
    session_dockerd.pull(pushed, OWNER)
    session_dockerd.remove_images()


@pytest.mark.parametrize("setting", [(ANSWERS, "htpasswd")], ids=["htpasswd"], indirect=True)
def test_a_swarm_of_dockerds_shows_the_registry_the_credentials_of_who_made_the_service(
    setting: Setting, session_dockerd: Dockerd
) -> None:
    """`--with-registry-auth` alone: without it, a node of the swarm pulls as nobody."""
    with swarm(session_dockerd):
        for registry in ("docker.io", BY_PROXY):
            reference = f"{registry}/{OWNED}:{TAG}"
            setting.origin.forget()
            assert task_of(session_dockerd, reference, "--with-registry-auth=false") == "no image"
            assert task_of(session_dockerd, reference, "--with-registry-auth") == "image"
            assert {request.user for request in setting.origin.requests()} == {"", OWNER.username}


@contextmanager
def swarm(dockerd: Dockerd) -> Iterator[None]:
    """dockerd as the one node of a swarm, whose ports are on loopback."""
    dockerd.run_as(None, "swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", f"127.0.0.1:{free_port()}")
    try:
        yield
    finally:
        dockerd.run_as(None, "swarm", "leave", "--force")
        dockerd.run_as(None, "network", "rm", "docker_gwbridge")


def task_of(dockerd: Dockerd, reference: str, *options: str) -> str:
    """Whether the task of a new service has its image. What becomes of the task then is no matter."""
    dockerd.remove_images()
    create = ["service", "create", "--detach", "--quiet", "--network", "host", "--restart-condition", "none"]
    service = dockerd.run_as(OWNER, *create, *options, reference).strip()
    tasks = ["service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", service]

    def outcome() -> str | None:
        told = dockerd.run_as(None, *tasks)
        if "No such image" in told:
            return "no image"
        return "image" if told.startswith(("Running", "Complete", "Failed", "Starting")) else None

    try:
        return wait_until(outcome, f"the task of {reference} has its image, or not")
    finally:
        dockerd.run_as(None, "service", "rm", service)


@pytest.mark.parametrize("setting", [(GONE, "htpasswd"), (GONE, "token")], ids=["htpasswd", "token"], indirect=True)
def test_without_its_registry_content_is_for_whoever_was_given_it_a_moment_ago(
    setting: Setting, images: dict[str, Image]
) -> None:
    for content in contents(images[OWNED]):
        assert ask(setting.node, OWNED, content, setting.first) == 200
    others = [{"Authorization": setting.registry.authorization(who, OWNED)} for who in (STRANGER, NEIGHBOUR)]
    for headers in ({}, *others):
        assert ask(setting.node, OWNED, f"manifests/{TAG}", headers) == 404
        assert ask(setting.node, OWNED, f"blobs/{images[OWNED].config.digest}", headers) == 404


def contents(image: Image) -> list[str]:
    """Everything of the image by digest, as it is asked for below its repository."""
    manifests = [f"manifests/{manifest.digest}" for manifest in (image.index, image.manifest)]
    return [*manifests, *(f"blobs/{blob.digest}" for blob in image.blobs)]


def ask(node: Node, repository: str, content: str, headers: Mapping[str, str]) -> int:
    """The status of a GET by hand."""
    return get(f"{node.url}/v2/{repository}/{content}", {"Accept": ANY_MANIFEST, **headers}).status
