"""`p2pd configure docker --https-proxy`: what dockerd is told of p2pd's HTTPS proxy, and how that is undone."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from p2pd.config.sources import load
from p2pd.config.upstream_setting import parse_upstream
from p2pd.config.values import Address, ConfigError
from p2pd.configure import dockerd
from p2pd.configure.docker import CERTS_D
from p2pd.configure.docker_proxy import DROP_IN, UNIT_DROP_INS, as_configured
from p2pd.configure.plan import configure, pending
from p2pd.configure.request import proxy_request
from p2pd.configure.runtime import ConfigureError, ProxyRequest, Request
from p2pd.configure.runtimes import RUNTIMES
from proxy.core.host_certificates import make_authority
from scheduler.trust.certificates import new_key, to_pem
from tests.p2pd.memory_tree import MemoryTree

DOCKER = RUNTIMES["docker"]
URL = "http://127.0.0.1:65007"
DATA = "/var/lib/p2pd"
DAEMON = "/etc/docker/daemon.json"
CRT = "/etc/docker/certs.d/registry.test:5000/p2pd.crt"
UNIT = "/etc/systemd/system/multi-user.target.wants/docker.service"
PEM = to_pem(make_authority(new_key(), "registry.test", datetime.now(UTC)))
REQUEST = Request(
    Address("127.0.0.1", 65001),
    (parse_upstream("docker.io"), parse_upstream("registry.test:5000=http://10.0.0.7:5000")),
    "docker.io",
    https_proxy=ProxyRequest(URL, DATA),
)
SINCE_23 = replace(REQUEST, https_proxy=ProxyRequest(URL, DATA, in_daemon_json=True))
MADE = {f"{DATA}/https-proxy/registry.test.crt": PEM, UNIT: b""}


def tree_of(files: dict[str, str] | None = None) -> MemoryTree:
    return MemoryTree({**MADE, **{path: text.encode() for path, text in (files or {}).items()}})


def test_an_old_dockerd_has_a_drop_in_and_a_certificate_for_each_upstream_but_docker_io() -> None:
    tree = tree_of()
    outcome = configure(DOCKER, REQUEST, tree)
    changed = {change.path: (change.after or b"").decode() for change in outcome.changes}
    assert changed[DROP_IN].splitlines()[1:] == ["[Service]", f'Environment="HTTPS_PROXY={URL}"']
    assert changed[CRT].partition("\n")[2] == PEM.decode()
    assert "proxies" not in changed[DAEMON]
    assert [path for path in changed if path.endswith(".crt")] == [CRT]
    hosts = changed["/etc/docker/certs.d/registry.test:5000/hosts.toml"]
    assert f'ca = ["{CRT}"]' in hosts  # the containerd image store looks for no *.crt beside a hosts.toml


@pytest.mark.parametrize("request_", [REQUEST, SINCE_23])
@pytest.mark.parametrize(
    "daemon_json",
    [
        "",
        "{}",
        '{\n\t"debug": true,\n\t"proxies": {\n\t\t"no-proxy": "10.0.0.0/8,.corp"\n\t}\n}\n',
        '{"proxies":{},"registry-mirrors":["https://a"]}',
        '{"proxies": {"http-proxy": "http://a:1", "no-proxy": "x"}}',
        f'{{"proxies": {{"https-proxy": "{URL}"}}}}',
    ],
)
def test_twice_is_once_and_undoing_restores_each_byte(request_: Request, daemon_json: str) -> None:
    tree = tree_of({DAEMON: daemon_json, f"{UNIT_DROP_INS}/a.conf": '[Service]\nEnvironment="NO_PROXY=.corp"\n'})
    before = dict(tree.files)
    configure(DOCKER, request_, tree)
    after = dict(tree.files)
    assert configure(DOCKER, request_, tree).changes == ()
    assert pending(DOCKER, request_, tree) == ()
    values = json.loads(after[DAEMON])
    was = json.loads(daemon_json or "{}")
    proxies = {**was.get("proxies", {}), **({"https-proxy": URL} if request_ is SINCE_23 else {})}
    assert values.get("proxies", {}) == proxies
    assert (DROP_IN in after) == (request_ is REQUEST)
    configure(DOCKER, None, tree)
    assert tree.files == before


def test_without_the_flag_the_proxy_goes() -> None:
    tree = tree_of()
    configure(DOCKER, SINCE_23, tree)
    configure(DOCKER, replace(SINCE_23, https_proxy=None), tree)
    assert "proxies" not in json.loads(tree.files[DAEMON])
    assert CRT not in tree.files


@pytest.mark.parametrize(
    ("rewritten", "left"),
    [
        ('{"debug": true, "proxies": {"https-proxy": "%s"}}', '{"debug": true}'),
        ('{"proxies": {"https-proxy": "%s", "no-proxy": "x"}}', '{"proxies": {"no-proxy": "x"}}'),
        ('{"proxies": {"https-proxy": "http://other:1"}}', '{"proxies": {"https-proxy": "http://other:1"}}'),
    ],
)
def test_undoing_takes_its_part_out_of_what_others_have_written_since(rewritten: str, left: str) -> None:
    tree = tree_of()
    configure(DOCKER, SINCE_23, tree)
    tree.files[DAEMON] = rewritten.replace("%s", URL).encode()
    configure(DOCKER, None, tree)
    assert json.loads(tree.files[DAEMON]) == json.loads(left)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (DAEMON, '{"proxies": {"https-proxy": "http://me:pass@corp:3128"}}'),
        (f"{UNIT_DROP_INS}/http-proxy.conf", '[Service]\nEnvironment="HTTPS_PROXY=http://me:pass@corp:3128"\n'),
        (f"{UNIT_DROP_INS}/http-proxy.conf", "[Service]\nEnvironment=https_proxy=http://me:pass@corp:3128 A=b\n"),
        ("/etc/default/docker", "export HTTPS_PROXY='http://me:pass@corp:3128'\n".replace("'", "")),
    ],
)
@pytest.mark.parametrize("request_", [REQUEST, SINCE_23])
def test_another_proxy_is_the_operators_to_move(request_: Request, path: str, text: str) -> None:
    tree = tree_of({path: text})
    before = dict(tree.files)
    with pytest.raises(ConfigureError, match="another HTTPS proxy already") as refused:
        configure(DOCKER, request_, tree)
    assert "set HTTPS_PROXY and NO_PROXY for p2pd" in str(refused.value)
    assert "pass" not in str(refused.value).replace("past", "")
    assert tree.files == before


def test_the_proxy_that_a_running_dockerd_has_counts() -> None:
    request = replace(REQUEST, https_proxy=ProxyRequest(URL, DATA, environment="http://corp:3128"))
    with pytest.raises(ConfigureError, match="the environment of the dockerd that runs"):
        configure(DOCKER, request, tree_of())
    configure(DOCKER, replace(REQUEST, https_proxy=ProxyRequest(URL, DATA, environment=f"{URL}/")), tree_of())


def test_a_commented_proxy_is_none() -> None:
    files = {
        "/etc/default/docker": '#export HTTPS_PROXY="http://127.0.0.1:3128/"\n',
        f"{UNIT_DROP_INS}/x.conf": "# y\n",
    }
    assert DROP_IN in {change.path for change in configure(DOCKER, REQUEST, tree_of(files)).changes}


def test_a_drop_in_that_has_the_proxy_is_enough() -> None:
    files = {f"{UNIT_DROP_INS}/http-proxy.conf": f'[Service]\nEnvironment="HTTPS_PROXY={URL}/"\n'}
    assert DROP_IN not in {change.path for change in configure(DOCKER, REQUEST, tree_of(files)).changes}


@pytest.mark.parametrize(
    "content", [None, b"root:x:0:0", to_pem(make_authority(new_key(), "other", datetime.now(UTC)))]
)
def test_without_the_nodes_certificate_nothing_is_changed(content: bytes | None) -> None:
    tree = tree_of()
    path = f"{DATA}/https-proxy/registry.test.crt"
    del tree.files[path]
    tree.files |= {} if content is None else {path: content}
    before = dict(tree.files)
    with pytest.raises(ConfigureError, match="nothing was changed"):
        configure(DOCKER, REQUEST, tree)
    assert tree.files == before


def test_without_systemd_the_operator_is_told_how() -> None:
    with pytest.raises(ConfigureError, match=f"start dockerd with HTTPS_PROXY={URL} in its environment"):
        configure(DOCKER, REQUEST, MemoryTree({path: MADE[path] for path in MADE if path != UNIT}))


def test_the_containerd_image_store_needs_no_proxy() -> None:
    with pytest.raises(ConfigureError, match="without --https-proxy"):
        configure(DOCKER, REQUEST, tree_of({"/etc/docker/certs.d/_default/hosts.toml": 'server = "https://a"\n'}))


def test_an_exception_of_no_proxy_is_told() -> None:
    files = {DAEMON: '{"proxies": {"no-proxy": "10.0.0.0/8, *.test"}}'}
    remarks = configure(DOCKER, SINCE_23, tree_of(files)).remarks
    assert any("excepts registry.test:5000 from the proxy" in remark for remark in remarks)
    assert any("systemctl restart docker" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("version", "reads"),
    [
        ("Docker version 20.10.24+dfsg1, build 5d6db84", False),
        ("Docker version 23.0.0, build e92dd87", True),
        ("Docker version 29.1.3, build f52814d", True),
        ("", False),
        ("podman version 24.0", False),
    ],
)
def test_which_dockerd_reads_its_proxy_from_daemon_json(version: str, reads: bool) -> None:
    settings = load({"https_proxy": "127.0.0.1:65007"}, {}, default_file=Path("/no such file"))
    assert proxy_request(settings, {}, version).in_daemon_json == reads


def test_a_proxy_that_the_settings_do_not_name_is_where_the_daemon_that_runs_says(tmp_path: Path) -> None:
    settings = load({}, {}, default_file=tmp_path / "none")
    with pytest.raises(ConfigError, match="p2pd has no HTTPS proxy"):
        proxy_request(settings, {}, "")
    found = proxy_request(settings, {"https_proxy": "0.0.0.0:7"}, "")
    assert found == ProxyRequest("http://127.0.0.1:7", str(settings.data))


def test_who_listens_at_the_admin_port_says_neither_whom_to_trust_nor_another_proxy() -> None:
    """While p2pd does not run, any user may listen there, and dockerd would take that user for the registries."""
    settings = load({"https_proxy": "127.0.0.1:65007", "data": DATA}, {}, default_file=Path("/no such file"))
    found = proxy_request(settings, {"https_proxy": "127.0.0.1:6", "data": "/home/somebody"}, "")
    assert found == ProxyRequest("http://127.0.0.1:65007", DATA)


def test_a_proxy_as_a_flag_of_dockerd_is_told() -> None:
    daemon = dockerd.Dockerd(1, ("dockerd", "--https-proxy=http://a"))
    dockerd.refuse_flags(daemon)
    with pytest.raises(ConfigureError, match="take the flag away"):
        dockerd.refuse_flags(daemon, proxy=True)


def test_the_environment_of_a_process_is_read(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "environ").write_bytes(b"A=b\0https_proxy=http://a:1\0")
    assert dockerd.environment_proxy(dockerd.Dockerd(7, ()), tmp_path) == "http://a:1"
    assert dockerd.environment_proxy(dockerd.Dockerd(os.getpid(), ()), tmp_path) == ""


@pytest.mark.parametrize("request_", [REQUEST, SINCE_23])
def test_doctor_finds_that_dockerd_has_what_it_needs(request_: Request) -> None:
    """It has no flag that says what is wanted."""
    tree, plain, at = tree_of(), replace(REQUEST, https_proxy=None), Address("0.0.0.0", 65007)
    assert as_configured(plain, at, Path(DATA), tree, CERTS_D) == plain
    configure(DOCKER, request_, tree)
    assert pending(DOCKER, as_configured(plain, at, Path(DATA), tree, CERTS_D), tree) == ()
    del tree.files[DAEMON]
    found = pending(DOCKER, as_configured(plain, at, Path(DATA), tree, CERTS_D), tree)
    assert [change.path for change in found] == [DAEMON]
    assert as_configured(plain, None, Path(DATA), tree, CERTS_D) == plain


def test_a_certificate_of_ours_is_no_reason_to_pass_by_the_operators_default() -> None:
    tree, default = tree_of(), "/etc/docker/certs.d/_default/hosts.toml"
    configure(DOCKER, REQUEST, tree)
    tree.write(default, b'[host."https://cache.corp"]\n')
    configure(DOCKER, replace(REQUEST, https_proxy=None), tree)
    assert b"127.0.0.1:65001" in tree.files[default]
    assert "/etc/docker/certs.d/registry.test:5000/hosts.toml" not in tree.files
