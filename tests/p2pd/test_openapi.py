"""Every route of the admin ports by schemathesis, as the documents describe it, and who may ask it."""

from __future__ import annotations

import gzip
import http.client
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from p2pd.openapi.document import OPERATIONS
from tests.generated_docs import DOCS
from tests.support.admin_ports import AdminPort, both_ports

DESCRIBED = {name: json.loads((DOCS / f"{name}-api.json").read_text()) for name in ("scheduler", "node")}
ENDLESS = "/cluster/events"
"""`tests/p2pd/test_cluster_page.py` reads it."""

OF_SCHEDULER = schemathesis.openapi.from_dict(DESCRIBED["scheduler"]).exclude(path=ENDLESS)
OF_NODE = schemathesis.openapi.from_dict(DESCRIBED["node"])
HELD = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
"""The checks of schemathesis that are made."""

few = hypothesis_settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, AdminPort]]:
    with both_ports(tmp_path_factory.mktemp("daemons")) as made:
        yield made


def check(case: Any, port: AdminPort) -> None:
    """Names of images and hosts have grammars that the schemas do not have: valid data may be refused, with 4xx."""
    held = [schemathesis.checks.CHECKS.get_one(name) for name in HELD]
    case.call_and_validate(base_url=port.url, headers=port.headers, checks=held)


@OF_SCHEDULER.parametrize()
@few
def test_each_route_of_a_scheduler_answers_as_it_is_described(case: Any, ports: Mapping[str, AdminPort]) -> None:
    check(case, ports["scheduler"])


@OF_NODE.parametrize()
@few
def test_each_route_of_a_node_answers_as_it_is_described(case: Any, ports: Mapping[str, AdminPort]) -> None:
    check(case, ports["node"])


def test_the_status_of_a_scheduler_has_its_preheats_by_state(ports: Mapping[str, AdminPort]) -> None:
    port = ports["scheduler"]
    status, job = port.ask("POST", "/api/v1/preheats", {"images": ["alpine"], "to": "away"})
    assert status == 201
    port.ask("POST", f"/api/v1/preheats/{job['id']}/cancel")
    status, found = port.ask("GET", "/status")
    assert (status, found["scheduler"]["preheats"]["cancelled"] > 0) == (200, True)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
def test_a_body_that_is_packed_is_not_unpacked(coding: str, ports: Mapping[str, AdminPort]) -> None:
    """A megabyte of it would be a gigabyte, which nobody reads to its end."""
    for body in (gzip.compress(b'{"events": []}'), b"no gzip"):
        for path, status in (("/registry/notifications", 400), ("/oapi/v1/jobs", 422), ("/api/v1/preheats", 422)):
            found, answer = ports["scheduler"].ask("POST", path, body, Content_Encoding=coding)
            assert (found, "JSON" in str(answer)) == (status, True)


def test_another_method_is_refused_with_those_that_there_are(ports: Mapping[str, AdminPort]) -> None:
    connection = http.client.HTTPConnection(ports["node"].addresses["admin"])
    with closing(connection):
        connection.request("PUT", "/cache")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Allow"], "error" in json.load(answer)) == (405, "GET,HEAD", True)


def operations(name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DESCRIBED[name]["paths"].items():
        for method, described in methods.items():
            yield method.upper(), path, described


def test_each_description_is_of_a_route() -> None:
    """A route that has none is an error of the document: `test_the_document_is_what_the_code_gives`."""
    served = {(method, path) for name in DESCRIBED for method, path, _ in operations(name)}
    assert served == set(OPERATIONS)


@pytest.mark.parametrize("name", DESCRIBED)
def test_what_is_not_open_needs_the_secret(name: str, ports: Mapping[str, AdminPort]) -> None:
    port = ports[name]
    for method, path, described in operations(name):
        if described.get("security") != []:
            at = re.sub(r"{\w+}", "1", path)
            answers = [port.ask(method, at, Authorization=shown)[0] for shown in ("", "Bearer wrong", "Basic OjE=")]
            assert answers == [403] * 3, (method, path)
