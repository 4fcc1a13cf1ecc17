"""A private image is for those whom its registry lets have it, cached or not, by HTTP Basic and by tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from peer.oci.manifest import ANY_MANIFEST
from tests.real.dockerd import Dockerd
from tests.real.image import LIGHT, Image
from tests.real.node import Node
from tests.real.origin import Origin, StartOrigin
from tests.real.paths import new_directory
from tests.real.private import OWNER, STRANGER
from tests.real.programs import ProgramError
from tests.real.registry import Registry, basic_auth, token_auth
from tests.real.skopeo import Skopeo, digests
from tests.real.tokens import TokenServer
from tests.real.web import Credentials, get
from tests.support.client import Reply


@pytest.fixture(params=["basic", "token"])
def origin(
    request: pytest.FixtureRequest, place: Path, storage: Path, light_image: Image, start_origin: StartOrigin
) -> Iterator[Origin]:
    """`light_image` in a registry that is for OWNER only."""
    directory = new_directory(place)
    with ExitStack() as started:
        if request.param == "basic":
            settings = basic_auth(directory, OWNER)
        else:
            tokens = TokenServer(directory, {OWNER: LIGHT})
            started.callback(tokens.stop)
            settings = token_auth(tokens)
        registry = Registry(directory, storage, settings)
        started.callback(registry.stop)
        yield start_origin(registry.url)


def test_private_image_is_for_its_owner_only(
    dockerd: Dockerd, skopeo: Skopeo, node: Node, origin: Origin, light_image: Image
) -> None:
    reference = f"{node.mirror}/docker.io/library/light:1"

    assert_closed_to_strangers(dockerd, skopeo, node, light_image)
    dockerd.pull("light:1", OWNER)
    assert dockerd.inspect("light:1")["Id"] == light_image.config.digest
    dockerd.remove_images()

    origin.forget()
    dockerd.pull("light:1", OWNER)
    assert digests(skopeo.copy(reference, OWNER)) == light_image.digests
    assert origin.blob_requests() == []
    dockerd.remove_images()

    assert all(node.cached(blob.digest) for blob in light_image.blobs)
    assert_closed_to_strangers(dockerd, skopeo, node, light_image)


def assert_closed_to_strangers(dockerd: Dockerd, skopeo: Skopeo, node: Node, image: Image) -> None:
    """Nobody gets any of it without credentials or with wrong ones, nor its owner from another repository."""
    for who in (None, STRANGER):
        with pytest.raises(ProgramError):
            dockerd.pull("light:1", who)
        with pytest.raises(ProgramError):
            skopeo.copy(f"{node.mirror}/docker.io/library/light:1", who)
        for content in contents(image):
            assert_refused(ask(node, f"{LIGHT}/{content}", who))
            assert_refused(ask(node, f"{LIGHT}/{content}?ns=docker.io", who))
            assert_refused(ask(node, f"docker.io/{LIGHT}/{content}", who))
    for content in contents(image):
        assert_refused(ask(node, f"library/other/{content}", OWNER))


def contents(image: Image) -> list[str]:
    """Everything of the image, as it is asked for below its repository."""
    manifests = (f"manifests/{image.index.digest}", f"manifests/{image.manifest.digest}", "manifests/1")
    return [*manifests, *(f"blobs/{blob.digest}" for blob in image.blobs)]


def ask(node: Node, path: str, who: Credentials | None) -> Reply:
    """GET from the mirror by hand."""
    authorization = {} if who is None else {"Authorization": f"Basic {who.basic}"}
    return get(f"{node.url}/v2/{path}", {"Accept": ANY_MANIFEST, **authorization})


def assert_refused(reply: Reply) -> None:
    """No, in the form that the OCI specification gives to errors."""
    assert reply.status in (401, 403, 404), reply
    assert all(error["code"] for error in reply.json["errors"]), reply
