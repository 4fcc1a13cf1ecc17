"""What the Helm chart asks of Kubernetes' API: the join token in its Secret, and the wait for all nodes."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from tests.support.kubernetes_api import KubernetesApi

SCRIPT: Final = Path(__file__).parents[2] / "docker" / "helm" / "p2pd" / "files" / "in_cluster.py"
SECRET: Final = "/api/v1/namespaces/p2pd/secrets/join"
DAEMONSET: Final = "/apis/apps/v1/namespaces/p2pd/daemonsets/p2pd-undo"


@pytest.fixture
def in_cluster() -> ModuleType:
    spec = importlib.util.spec_from_file_location("in_cluster", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[KubernetesApi]:
    with KubernetesApi(tmp_path / "account") as served:
        yield served


@pytest.fixture
def api(in_cluster: ModuleType, kubernetes: KubernetesApi) -> Any:
    return in_cluster.Api(f"https://127.0.0.1:{kubernetes.port}", kubernetes.account)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tokens that the program `p2pd` on PATH knows; it makes new ones with the ids t1, t2, …"""
    known = tmp_path / "ledger.json"
    known.write_text("[]")
    program = tmp_path / "p2pd"
    program.write_text(
        f"""#!{sys.executable}
import json, pathlib, sys
file = pathlib.Path({str(known)!r})
known = json.loads(file.read_text())
assert sys.argv[1] == "token"
if sys.argv[2] == "ls":
    print(json.dumps(known))
elif sys.argv[2] == "revoke":
    file.write_text(json.dumps([each | dict(revoked=1.0) for each in known if each["id"] == sys.argv[3]]))
else:
    known.append(dict(id=f"t{{len(known) + 1}}", expires=None, revoked=None, uses_left=None))
    file.write_text(json.dumps(known))
    print(f"p2pd1_{{known[-1]['id']}}_secret_fingerprint")
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return known


def held(kubernetes: KubernetesApi) -> str:
    return base64.b64decode(kubernetes.objects[SECRET]["data"]["token"]).decode()


def test_a_token_is_published_once(in_cluster: ModuleType, api: Any, kubernetes: KubernetesApi, ledger: Path) -> None:
    kubernetes.objects[SECRET] = {"kind": "Secret"}
    assert in_cluster.publish(api, SECRET, [], 0) == "t1"
    assert held(kubernetes) == "p2pd1_t1_secret_fingerprint"
    assert in_cluster.publish(api, SECRET, [], 0) is None
    assert kubernetes.patches == [(SECRET, "application/merge-patch+json")]


@pytest.mark.parametrize("over", [{"revoked": 1.0}, {"expires": 5.0}, {"uses_left": 0}, {"id": "other"}])
def test_a_token_that_the_scheduler_no_longer_takes_is_replaced(
    over: dict[str, Any], in_cluster: ModuleType, api: Any, kubernetes: KubernetesApi, ledger: Path
) -> None:
    kubernetes.objects[SECRET] = {"data": None}
    in_cluster.publish(api, SECRET, [], 0)
    ledger.write_text(json.dumps([json.loads(ledger.read_text())[0] | over]))
    assert in_cluster.publish(api, SECRET, [], 10) == "t2"
    assert held(kubernetes).startswith("p2pd1_t2_")


@pytest.mark.parametrize("held", ["", base64.b64encode(b"nonsense").decode(), base64.b64encode(b"\xff_").decode(), "%"])
def test_what_is_no_token_is_replaced(
    held: str, in_cluster: ModuleType, api: Any, kubernetes: KubernetesApi, ledger: Path
) -> None:
    kubernetes.objects[SECRET] = {"data": {"token": held}}
    assert in_cluster.publish(api, SECRET, [], 0) == "t1"


def test_a_token_that_cannot_be_published_opens_nothing(
    in_cluster: ModuleType, api: Any, kubernetes: KubernetesApi, ledger: Path
) -> None:
    kubernetes.objects[SECRET] = {}
    kubernetes.read_only = True
    with pytest.raises(in_cluster.FailedError, match="answered 403"):
        in_cluster.publish(api, SECRET, [], 0)
    (made,) = json.loads(ledger.read_text())
    assert made["revoked"] is not None


def test_what_goes_wrong_is_said(in_cluster: ModuleType, api: Any, kubernetes: KubernetesApi, ledger: Path) -> None:
    with pytest.raises(in_cluster.FailedError, match="answered 404"):
        in_cluster.publish(api, SECRET, [], 0)
    kubernetes.objects[SECRET] = {}
    ledger.write_text("")
    with pytest.raises(in_cluster.FailedError, match="p2pd token ls"):
        in_cluster.publish(api, SECRET, [], 0)
    kubernetes.token = "renewed"
    with pytest.raises(in_cluster.FailedError, match="answered 403"):
        api.ask(SECRET)
    (kubernetes.account / "token").write_text("renewed\n")
    assert api.ask(SECRET) == {}
    (kubernetes.account / "token").unlink()
    with pytest.raises(in_cluster.FailedError, match="does not answer"):
        api.ask(SECRET)


def test_the_wait_ends_once_all_nodes_are_undone(
    in_cluster: ModuleType, api: Any, kubernetes: KubernetesApi, capsys: pytest.CaptureFixture[str]
) -> None:
    status = {"observedGeneration": 1, "desiredNumberScheduled": 3, "numberReady": 3}
    kubernetes.objects[DAEMONSET] = {"metadata": {"generation": 1}, "status": status}
    assert in_cluster.wait_undone(api, DAEMONSET, 0) == 0
    assert "3 of 3 nodes are undone" in capsys.readouterr().err
    assert kubernetes.objects == {}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"observedGeneration": 1, "desiredNumberScheduled": 3, "numberReady": 2}, "2 of 3 nodes are undone"),
        ({"observedGeneration": 1, "desiredNumberScheduled": 3}, "0 of 3 nodes are undone"),
        ({}, "no pod has been made yet"),
        ({"desiredNumberScheduled": 0}, "no pod has been made yet"),
    ],
)
def test_the_wait_says_what_is_not_done(
    status: dict[str, int],
    said: str,
    in_cluster: ModuleType,
    api: Any,
    kubernetes: KubernetesApi,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kubernetes.objects[DAEMONSET] = {"metadata": {"generation": 1}, "status": status}
    assert in_cluster.wait_undone(api, DAEMONSET, -1) == 1
    assert DAEMONSET in kubernetes.objects, "the nodes that are late are undone later"
    told = capsys.readouterr().err
    assert said in told
    assert "kubectl get pods -l app.kubernetes.io/name=p2pd-undo" in told


def test_it_needs_nothing_but_the_standard_library() -> None:
    """The image's python3 need not be the one that p2pd is installed for."""
    lines = [line.split() for line in SCRIPT.read_text().splitlines() if line.startswith(("import ", "from "))]
    imported = [words[1].partition(".")[0] for words in lines]
    assert set(imported) <= set(sys.stdlib_module_names) | {"__future__"}


def test_as_a_program(kubernetes: KubernetesApi) -> None:
    kubernetes.objects[DAEMONSET] = {
        "metadata": {"generation": 2},
        "status": {"observedGeneration": 2, "desiredNumberScheduled": 2, "numberReady": 2},
    }
    argv = [sys.executable, str(SCRIPT), str(kubernetes.account), "wait-undone", DAEMONSET, "5"]
    done = subprocess.run(argv, env=os.environ | kubernetes.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "2 of 2 nodes are undone\n")
