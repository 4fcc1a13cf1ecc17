"""`p2pd predict`, from a client's pull of a tag at a node to the table, with a scheduler and a node as processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from p2pd.cli.app import app
from p2pd.pull.platforms import local_platform
from tests.support.images import content_of, make_image, make_index
from tests.support.preheats import Scheduler, node_of, until
from tests.support.registry import ImageRegistry


@pytest.fixture
def registry() -> Iterator[ImageRegistry]:
    with ImageRegistry() as running:
        for name in ("app", "secret"):
            image = make_image(content_of(f"a layer of {name}", 100_000))
            running.push(f"team/{name}", "v1", make_index(image, platforms=[local_platform()]))
        yield running


def test_what_a_client_pulled_by_its_tag_is_expected_again(tmp_path: Path, registry: ImageRegistry) -> None:
    """The tag names an index: the client asks for the image in it by digest.

    What the operator's credentials open is private. Without certificates it is not exchanged, and its name is not told.
    """
    scheduler = Scheduler(tmp_path, pull_history="90d", predict="advise", predict_model="last")
    (password := tmp_path / "password").write_text("secret")
    private = f"private.test={registry.url};username=operator;password_file={password}"
    node = node_of(tmp_path, scheduler, registry.url, site="east", upstream=[f"reg.test={registry.url}", private])
    try:
        until(lambda: scheduler.has_hosts(1))
        for name in ("private.test/team/secret:v1", "reg.test/team/app:v1"):
            pull = ["pull", name, "--quiet", "--mirror", node.wait_for_event("ready")["mirror"]]
            assert CliRunner().invoke(app, pull).exit_code == 0
        until(lambda: "1 records" in scheduler.run("predict").output)
        (found,) = json.loads(scheduler.run("predict", "--json").output)["predictions"]
        assert (found["image"], found["site"], found["held"]) == ("reg.test/team/app:v1", "east", True)
        assert found["size_bytes"] > 100_000
        table = scheduler.run("predict", "--held", "--site", "east").output
        assert "reg.test/team/app:v1  east" in table
        assert "pulled 0 h ago; held" in table
        assert "0 expected within 6 h" in scheduler.run("predict").output
    finally:
        node.close()
        scheduler.daemon.close()


def test_a_scheduler_that_predicts_nothing_says_how_to_have_it(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path)
    try:
        result = scheduler.run("predict")
        assert (result.exit_code, "set pull_history" in result.output) == (1, True)
        assert not (tmp_path / "scheduler" / "scheduler" / "history.db").exists()
    finally:
        scheduler.daemon.close()
