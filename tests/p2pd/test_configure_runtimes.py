"""What each runtime's files have to say, from what they said before."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from itertools import pairwise

import pytest

from p2pd.config.upstream_setting import parse_upstream
from p2pd.config.values import Address
from p2pd.configure.plan import configure
from p2pd.configure.runtime import ConfigureError, Request, RuntimePlan
from p2pd.configure.runtimes import RUNTIMES
from tests.p2pd.memory_tree import MemoryTree

HUB = parse_upstream("docker.io=https://registry-1.docker.io")
PRIVATE = parse_upstream("registry.example:5000=http://10.0.0.7:5000;ca=/etc/p2pd/ca.pem")
REQUEST = Request(Address("127.0.0.1", 65001), (HUB, PRIVATE), "docker.io")

DAEMON = "/etc/docker/daemon.json"
CONFIG = "/etc/containerd/config.toml"
HOSTS = "/etc/containerd/certs.d/docker.io/hosts.toml"
MIRROR = "http://127.0.0.1:65001"


def plan(name: str, files: dict[str, str], request: Request = REQUEST) -> RuntimePlan:
    return RUNTIMES[name].plan(request, MemoryTree({path: text.encode() for path, text in files.items()}))


def body(content: bytes) -> str:
    """A file of ours without its first line."""
    first, _, rest = content.decode().partition("\n")
    assert first.startswith("# Written by `p2pd configure ")
    return rest


# docker


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "registry-mirrors": [\n    "http://127.0.0.1:65001"\n  ]\n}\n'),
        (" \n", '{\n  "registry-mirrors": [\n    "http://127.0.0.1:65001"\n  ]\n}\n'),
        ("{}", '{\n  "registry-mirrors": [\n    "http://127.0.0.1:65001"\n  ]\n}\n'),
        ('{"debug":true}', '{"registry-mirrors": ["http://127.0.0.1:65001"], "debug":true}'),
        (
            '{\n\t"a": 1.50,\n\t"b": []\n}\n',
            '{\n\t"registry-mirrors": ["http://127.0.0.1:65001"],\n\t"a": 1.50,\n\t"b": []\n}\n',
        ),
        (
            '{\r\n    "x": "{",\r\n    "registry-mirrors" : [ "https://a" ]\r\n}',
            '{\r\n    "x": "{",\r\n    "registry-mirrors" : [ "http://127.0.0.1:65001", "https://a" ]\r\n}',
        ),
        (
            '{"registry-mirrors": [\n  "https://a",\n  "https://b"\n], "x": {}}',
            '{"registry-mirrors": [\n  "http://127.0.0.1:65001",\n  "https://a",\n  "https://b"\n], "x": {}}',
        ),
        ('{"registry-mirrors": [  ]}', '{"registry-mirrors": ["http://127.0.0.1:65001"]}'),
        ('{"registry-mirrors": ["http://127.0.0.1:65001/"]}', '{"registry-mirrors": ["http://127.0.0.1:65001/"]}'),
    ],
)
def test_daemon_json_gets_the_mirror_first_and_keeps_its_layout(before: str, after: str) -> None:
    assert plan("docker", {DAEMON: before}).files[DAEMON].decode() == after


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "is not what dockerd takes"),
        ('{"registry-mirrors": "https://a"}', r'is not what dockerd takes \("registry-mirrors" is no list\)'),
        ('\ufeff{"debug": true}', "begins with a byte order mark"),
        ('{"registry-mirrors": [], "registry-mirrors": []} trailing', "is not JSON"),
        ('{"registry-mirrors": ["https://a"], "registry-mirrors": ["https://b"]}', "cannot change safely"),
    ],
)
def test_a_daemon_json_that_cannot_be_changed_is_told(text: str, reason: str) -> None:
    with pytest.raises(ConfigureError, match=reason):
        plan("docker", {DAEMON: text})


def test_daemon_json_that_is_not_text_is_told() -> None:
    with pytest.raises(ConfigureError, match="is not UTF-8"):
        RUNTIMES["docker"].plan(REQUEST, MemoryTree({DAEMON: b"\xff\xfe{}"}))


def test_registry_mirrors_is_for_docker_hub_as_the_default_upstream_only() -> None:
    second = plan("docker", {}, replace(REQUEST, default_upstream="registry.example:5000"))
    without = plan("docker", {}, replace(REQUEST, upstreams=(PRIVATE,)))
    assert DAEMON not in second.files
    assert "first upstream" in " ".join(second.remarks)
    assert DAEMON not in without.files
    assert "not among the upstreams" in " ".join(without.remarks)


def test_docker_is_told_where_insecure_registries_no_longer_counts() -> None:
    secure = parse_upstream("registry.example=https://registry.example")
    text = json.dumps({"insecure-registries": ["registry.example", "registry.example:5000"]})
    remarks = plan("docker", {DAEMON: text}, replace(REQUEST, upstreams=(HUB, secure, PRIVATE))).remarks
    assert len(remarks) == 1
    assert "registry.example in the containerd image store" in remarks[0]


# hosts.toml, for docker and containerd alike


def test_hosts_toml_names_the_mirror_and_the_upstream() -> None:
    files = plan("docker", {}).files
    assert (
        body(files["/etc/docker/certs.d/registry.example:5000/hosts.toml"])
        == """\
server = "http://10.0.0.7:5000"

[host."http://127.0.0.1:65001"]
  capabilities = ["pull", "resolve"]
  dial_timeout = "1s"
"""
    )


def test_a_layout_on_disk_is_no_server() -> None:
    layout = parse_upstream("docker.io=oci-layout:///srv/images")
    files = plan("containerd", {}, replace(REQUEST, upstreams=(layout,))).files
    assert list(tomllib.loads(files[HOSTS].decode())) == ["host"]


def test_the_directory_is_the_one_that_containerd_finds_first_with_its_certificates() -> None:
    directory = "/etc/docker/certs.d/registry.example_5000_"
    certificates = dict.fromkeys([f"{directory}/{name}" for name in ("ca.crt", "a.cert", "a.key", "b.cert")], "")
    files = plan("docker", {**certificates, "/etc/p2pd/ca.pem": ""}).files
    values = tomllib.loads(files[f"{directory}/hosts.toml"].decode())
    assert values["ca"] == ["ca.crt", "/etc/p2pd/ca.pem"]
    assert values["client"] == [["a.cert", "a.key"], ["b.cert", "b.cert"]]


def test_a_project_of_a_registry_is_the_whole_path() -> None:
    project = parse_upstream("docker.io=https://harbor.corp/v2/hub")
    files = plan("containerd", {}, replace(REQUEST, upstreams=(project,))).files
    values = tomllib.loads(files[HOSTS].decode())
    assert (values["server"], values["override_path"]) == ("https://harbor.corp/v2/hub", True)
    assert "override_path" not in values["host"][MIRROR]


def test_the_wildcard_is_told_to_be_narrow_if_the_mirror_serves_named_registries_only() -> None:
    wide = replace(REQUEST, wildcard=True)
    (narrow,) = RUNTIMES["containerd"].remarks(wide)
    assert "p2pd serves docker.io, registry.example:5000 only" in narrow
    assert "p2pd run --upstream '*'" in narrow
    for name in ("containerd", "k3s", "rke2", "docker"):
        assert RUNTIMES[name].remarks(replace(wide, any_host=True)) == ()
        assert RUNTIMES[name].remarks(REQUEST) == ()
    for name in ("podman", "crio", "buildkit"):
        (none,) = RUNTIMES[name].remarks(replace(wide, any_host=True))
        assert "for docker.io, registry.example:5000 only" in none
    assert "classic store mirrors docker.io only" in plan("docker", {}, wide).remarks[-1]


def test_the_wildcard_has_no_server() -> None:
    files = plan("containerd", {}, replace(REQUEST, wildcard=True)).files
    values = tomllib.loads(files["/etc/containerd/certs.d/_default/hosts.toml"].decode())
    assert list(values) == ["host"]


ADDED = """\
# Added by `p2pd configure`.
[host."http://127.0.0.1:65001"]
  capabilities = ["pull", "resolve"]
  dial_timeout = "1s"

"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '# mine\nserver = "https://a"\n\n# first\n[host."https://b"]\n  capabilities = ["pull"]\n',
            f'# mine\nserver = "https://a"\n\n# first\n{ADDED}[host."https://b"]\n  capabilities = ["pull"]\n',
        ),
        ('server = "https://a"', f'server = "https://a"\n{ADDED}'),
        ('header.a = "b"\n[[x]]\n', f'header.a = "b"\n{ADDED}[[x]]\n'),
        (f'[host."https://b"]\n[host."{MIRROR}"]\n', f'[host."https://b"]\n[host."{MIRROR}"]\n'),
    ],
)
def test_an_operators_hosts_toml_gets_our_host_before_its_own(before: str, after: str) -> None:
    result = plan("containerd", {HOSTS: before})
    assert result.files[HOSTS].decode() == after
    assert "is the operator's" in " ".join(result.remarks)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('host = { "https://b" = {} }\n', r"(?s)cannot change safely.*\[host.\"http://127.0.0.1:65001\"\]"),
        ("host = 3\n", "cannot change safely"),
        ('host."https://b".skip_verify = true\n', "cannot change safely"),  # ours would be the second host
        ("server = \n", "is not TOML"),
    ],
)
def test_a_hosts_toml_that_cannot_be_changed_is_told(text: str, reason: str) -> None:
    with pytest.raises(ConfigureError, match=reason):
        plan("containerd", {HOSTS: text})


DEFAULT_HOSTS = "/etc/containerd/certs.d/_default/hosts.toml"


@pytest.mark.parametrize("wildcard", [False, True])
def test_the_operators_default_directory_is_not_hidden_and_gets_the_mirror(*, wildcard: bool) -> None:
    files = {DEFAULT_HOSTS: '[host."https://a"]\n', "/etc/containerd/certs.d/docker.io/ca.crt": "certificate"}
    result = plan("containerd", files, replace(REQUEST, wildcard=wildcard))
    assert set(result.files) == {CONFIG, DEFAULT_HOSTS, HOSTS}  # the directory of docker.io hides it already
    assert list(tomllib.loads(result.files[DEFAULT_HOSTS].decode())["host"]) == [MIRROR, "https://a"]


# containerd's config.toml

CRI_V2 = '[plugins."io.containerd.grpc.v1.cri".registry]'
CRI_V3 = "[plugins.'io.containerd.cri.v1.images'.registry]"
PATH = 'config_path = "/etc/containerd/certs.d"'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            "version = 2\n[plugins]\n",
            f"version = 2\n[plugins]\n\n{CRI_V2}\n  {PATH}\n",
            id="no table",
        ),
        pytest.param("version = 2", f"version = 2\n\n{CRI_V2}\n  {PATH}\n", id="no line feed at the end"),
        pytest.param(
            f"version = 2\n  {CRI_V2} # of the cluster\n[metrics]\n",
            f"version = 2\n  {CRI_V2} # of the cluster\n    {PATH}\n[metrics]\n",
            id="an empty table",
        ),
        pytest.param(f"version = 2\n{CRI_V2}", f"version = 2\n{CRI_V2}\n  {PATH}\n", id="a table at the very end"),
        pytest.param(
            f"version = 2\r\n{CRI_V2}\r\nconfig_path = ''\r\n",
            f"version = 2\r\n{CRI_V2}\r\n{PATH}\r\n",
            id="carriage returns",
        ),
        pytest.param(
            "version = 2\r\n", f"version = 2\r\n\r\n{CRI_V2}\r\n  {PATH}\r\n", id="no table, carriage returns"
        ),
        pytest.param(
            f'version = 3\n{CRI_V3}\n\tconfig_path = "/etc/containerd/certs.d:/etc/docker/certs.d" # default\n',
            f"version = 3\n{CRI_V3}\n\t{PATH} # default\n",
            id="the list that is taken for one directory",
        ),
        pytest.param(f"version = 4\n{CRI_V3}\n", f"version = 4\n{CRI_V3}\n  {PATH}\n", id="version 4"),
        pytest.param("root = '/x'\n", f"root = '/x'\n\n[plugins.cri.registry]\n  {PATH}\n", id="version 1"),
        pytest.param(
            f'version = 2\n{CRI_V2}\nconfig_path = "/srv/hosts"\n',
            f'version = 2\n{CRI_V2}\nconfig_path = "/srv/hosts"\n',
            id="a directory of the operator's",
        ),
        pytest.param(
            f'version = 2\n{CRI_V2}\n[x]\ntitle = """\n{CRI_V2}\n"""\n',
            f'version = 2\n{CRI_V2}\n  {PATH}\n[x]\ntitle = """\n{CRI_V2}\n"""\n',
            id="a header within a string",
        ),
        pytest.param(
            'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nregistry = { config_path = "" } # c\n',
            f'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nregistry = {{ {PATH} }} # c\n',
            id="an inline table",
        ),
        pytest.param(
            'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nregistry.config_path = ""\n',
            f'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nregistry.{PATH}\n',
            id="a dotted key",
        ),
        pytest.param(
            f'version = 2\n{CRI_V2}\nconfig_path = """\n"""\n',
            f"version = 2\n{CRI_V2}\n{PATH}\n",
            id="a string of many lines",
        ),
        pytest.param(
            f"version = 2\n{CRI_V2}\n  # mine\n\n# of others\n[metrics]\n",
            f"version = 2\n{CRI_V2}\n  {PATH}\n  # mine\n\n# of others\n[metrics]\n",
            id="comments below the header",
        ),
        pytest.param(
            'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.headers]\n',
            f'version = 2\n{CRI_V2}\n  {PATH}\n[plugins."io.containerd.grpc.v1.cri".registry.headers]\n',
            id="only tables below it",
        ),
        pytest.param(
            f'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.headers]\n[metrics]\n{CRI_V2}\n',
            f'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.headers]\n[metrics]\n{CRI_V2}\n{PATH}\n',
            id="a table below those that are in it",
        ),
    ],
)
def test_config_toml_gets_one_directory_and_keeps_all_else(before: str, after: str) -> None:
    assert plan("containerd", {CONFIG: before}).files[CONFIG].decode() == after


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[[debug]]\n[metrics]\n[[debug]]\n", id="an array in two places, which tomlkit would move"),
        pytest.param("plugins = 1\n", id="no table where one has to be"),
        pytest.param("plugins = { cri = {} }\n", id="a table that no header can add to"),
    ],
)
def test_a_config_toml_that_cannot_be_changed_exactly_is_told(text: str) -> None:
    with pytest.raises(ConfigureError, match=r"(?s)cannot change safely.*config_path = \"/etc/containerd/certs.d\""):
        plan("containerd", {CONFIG: text})


def test_without_a_config_toml_one_is_written_that_every_containerd_reads() -> None:
    assert body(plan("containerd", {}).files[CONFIG]) == f"version = 2\n\n{CRI_V2}\n  {PATH}\n"


def test_the_hosts_are_written_where_config_toml_looks_for_them() -> None:
    result = plan("containerd", {CONFIG: f'version = 2\n{CRI_V2}\nconfig_path = "/srv/hosts:/etc/more"\n'})
    assert "/srv/hosts/docker.io/hosts.toml" in result.files


LISTED = f'version = 2\n{CRI_V2}\nconfig_path = "/opt/certs.d:/etc/containerd/certs.d"\n'


def test_of_several_directories_the_one_in_use_is_kept() -> None:
    result = plan("containerd", {CONFIG: LISTED, "/etc/containerd/certs.d/quay.io/ca.crt": "certificate"})
    assert HOSTS in result.files
    assert PATH in result.files[CONFIG].decode()


def test_none_of_several_directories_in_use_is_switched_off() -> None:
    ours = plan("docker", {}).files["/etc/docker/certs.d/docker.io/hosts.toml"].decode()
    files = {CONFIG: LISTED, "/opt/certs.d/quay.io/hosts.toml": ours, HOSTS: 'server = "https://a"\n'}
    one = MemoryTree({path: text.encode() for path, text in files.items()})
    configure(RUNTIMES["containerd"], REQUEST, one)
    assert PATH in one.files[CONFIG].decode()

    tree = MemoryTree({**{path: text.encode() for path, text in files.items()}, "/opt/certs.d/ghcr.io/ca.crt": b"c"})
    told = (
        r"(?s)/opt/certs.d has ghcr.io; /etc/containerd/certs.d has docker.io.*\ncp -an /etc/containerd/certs.d/. /opt"
    )
    with pytest.raises(ConfigureError, match=told):
        configure(RUNTIMES["containerd"], REQUEST, tree)
    assert tree.files[CONFIG].decode() == LISTED


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"version = 2\n{CRI_V2}\n[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.a]\n", "registry.mirrors"),
        (f"version = 2\n{CRI_V2}\n[plugins.'io.containerd.grpc.v1.cri'.registry.configs.a.tls]\n", "registry.configs"),
        ("version = 9\n", "version 9"),
        ("version = ", "is not TOML"),
    ],
)
def test_a_config_toml_with_which_containerd_would_not_work_is_told(text: str, reason: str) -> None:
    with pytest.raises(ConfigureError, match=reason):
        plan("containerd", {CONFIG: text})


def test_the_empty_mirrors_of_a_default_configuration_are_no_obstacle() -> None:
    text = f'version = 2\n{CRI_V2}\nconfig_path = ""\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors]\n'
    assert PATH in plan("containerd", {CONFIG: text}).files[CONFIG].decode()


def test_config_toml_is_left_alone_where_the_cri_plugin_is_off() -> None:
    result = plan("containerd", {CONFIG: 'disabled_plugins = ["cri"]\n'})
    assert CONFIG not in result.files
    assert HOSTS in result.files
    assert "disables the CRI plugin" in result.remarks[-1]


def test_drop_ins_without_a_config_toml_are_told() -> None:
    with pytest.raises(ConfigureError, match="but there is no /etc/containerd/config"):
        plan("containerd", {"/etc/containerd/conf.d/nvidia.toml": "version = 3\n"})


def test_imports_are_told() -> None:
    assert "imports other files" in plan("containerd", {CONFIG: 'version = 2\nimports = ["/a/*.toml"]\n'}).remarks[0]


# podman and CRI-O

OURS = "/etc/containers/registries.conf.d/90-p2pd.conf"
REGISTRIES = "/etc/containers/registries.conf"


def test_podman_finds_the_registry_in_the_mirrors_location() -> None:
    assert tomllib.loads(plan("podman", {REGISTRIES: 'short-name-mode = "enforcing"\n'}).files[OURS].decode()) == {
        "registry": [
            {
                "prefix": name,
                "location": name,
                "mirror": [{"location": f"127.0.0.1:65001/{component}", "insecure": True}],
            }
            for name, component in (
                ("docker.io", "docker.io"),
                ("registry.example:5000", "registry.example__5000"),  # no colon: containers/image refuses one there
            )
        ]
    }


MIRROR_TABLE = '[[registry.mirror]]\nlocation = "127.0.0.1:65001/docker.io{path}"\ninsecure = true\n'
ADDED_MIRROR = f"\n# Added by `p2pd configure`.\n{MIRROR_TABLE}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            '[[registry]]\nlocation = "docker.io"',
            '[[registry]]\nlocation = "docker.io"\n' + ADDED_MIRROR.format(path=""),
            id="no mirror",
        ),
        pytest.param(
            '# a\n[[registry]] # b\nprefix = "docker.io"\nlocation = "docker.io" # c\n\n# mine\n[[registry.mirror]]\n'
            'location = "cache.example"\n\n[[registry]]\nlocation = "quay.io"\n',
            '# a\n[[registry]] # b\nprefix = "docker.io"\nlocation = "docker.io" # c\n'
            + ADDED_MIRROR.format(path="")
            + '\n# mine\n[[registry.mirror]]\nlocation = "cache.example"\n\n[[registry]]\nlocation = "quay.io"\n',
            id="before the operator's mirror",
        ),
        pytest.param(
            '[[registry]]\r\nlocation = "quay.io"\r\n[[registry]]\r\nlocation = "docker.io"\r\n',
            '[[registry]]\r\nlocation = "quay.io"\r\n[[registry]]\r\nlocation = "docker.io"\r\n'
            + ADDED_MIRROR.format(path="").replace("\n", "\r\n"),
            id="carriage returns",
        ),
    ],
)
def test_a_registry_of_the_operators_gets_the_mirror_before_its_own(before: str, after: str) -> None:
    result = plan("podman", {REGISTRIES: before}, replace(REQUEST, upstreams=(HUB,)))
    assert {path: content.decode() for path, content in result.files.items()} == {REGISTRIES: after}
    assert result.remarks == (f"{REGISTRIES} is the operator's: the mirror is the first of docker.io in it.",)


def test_a_longer_prefix_gets_the_mirror_too_and_one_in_a_later_file_counts() -> None:
    library = '[[registry]]\nlocation = "docker.io/library"\n'
    later = "/etc/containers/registries.conf.d/99-z.conf"
    files = plan("podman", {REGISTRIES: library, later: library}, replace(REQUEST, upstreams=(HUB,))).files
    assert files[later].decode() == library + ADDED_MIRROR.format(path="/library")
    assert set(files) == {later, OURS}


def test_the_mirror_goes_into_several_tables_of_a_file() -> None:
    text = '[[registry]]\nlocation = "docker.io"\n[[registry]]\nlocation = "docker.io/library"\n'
    files = plan("podman", {REGISTRIES: text}, replace(REQUEST, upstreams=(HUB,))).files
    tables = tomllib.loads(files[REGISTRIES].decode())["registry"]
    assert [table["mirror"][0]["location"] for table in tables] == [
        "127.0.0.1:65001/docker.io",
        "127.0.0.1:65001/docker.io/library",
    ]


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ('[[registry]]\nlocation = "docker.io"\nblocked = true\n', "blocks docker.io, so podman pulls nothing of it"),
        (
            '[[registry]]\nlocation = "docker.io/library"\nblocked = true\n',
            "blocks docker.io/library, so podman pulls nothing of it",
        ),
        (
            '[[registry]]\nprefix = "docker.io/library"\nlocation = "harbor.corp/hub"\n',
            "images of docker.io/library come from harbor.corp/hub: podman does not ask the mirror",
        ),
    ],
)
def test_what_is_blocked_or_comes_from_elsewhere_is_left_alone_and_told(text: str, remark: str) -> None:
    result = plan("podman", {REGISTRIES: text}, replace(REQUEST, upstreams=(HUB,)))
    assert REGISTRIES not in result.files
    assert remark in " ".join(result.remarks)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[[registry]]\nprefix = "docker.io"\nlocation = "harbor.corp/hub"\n', "come from harbor.corp/hub"),
        ('registry = [{ location = "docker.io" }]\n', "cannot change safely"),
        ('[[registry]]\nlocation = "docker.io"\nmirror = [{ location = "a" }]\n', "cannot change safely"),
    ],
)
def test_a_registry_that_cannot_have_the_mirror_is_told_with_lines_to_paste(text: str, reason: str) -> None:
    with pytest.raises(ConfigureError) as raised:
        plan("crio", {"/etc/containers/registries.conf.d/50-mine.conf": text})
    first, _, pasted = str(raised.value).partition("\n")
    assert reason in first
    assert pasted == MIRROR_TABLE.format(path="")


def test_a_registry_that_has_the_mirror_elsewhere_is_left_out() -> None:
    text = '[[registry]]\nprefix = "docker.io"\n[[registry.mirror]]\nlocation = "127.0.0.1:65001/docker.io"\n'
    assert b'"docker.io"' not in plan("podman", {REGISTRIES: text}).files[OURS]
    assert plan("podman", {REGISTRIES: text}, replace(REQUEST, upstreams=(HUB,))).files == {}


# BuildKit

BUILDKIT = "/etc/buildkit/buildkitd.toml"


def test_buildkit_gets_the_mirror_before_others() -> None:
    text = '# mine\n[registry."docker.io"]\n  mirrors = ["cache.example"] # near\n  insecure = true\n'
    assert plan("buildkit", {BUILDKIT: text}, replace(REQUEST, upstreams=(HUB,))).files[BUILDKIT].decode() == (
        '# mine\n[registry."docker.io"]\n  mirrors = ["127.0.0.1:65001", "cache.example"] # near\n  insecure = true\n'
        '\n[registry."127.0.0.1:65001"]\n  http = true\n'
    )


def test_buildkit_keeps_a_list_of_many_lines() -> None:
    text = '[registry."docker.io"]\n  mirrors = [\n    # mine\n    "cache.example", # near\n  ]\n'
    assert plan("buildkit", {BUILDKIT: text}, replace(REQUEST, upstreams=(HUB,))).files[BUILDKIT].decode() == (
        '[registry."docker.io"]\n  mirrors = [\n    # mine\n    "127.0.0.1:65001",\n    "cache.example", # near\n  ]\n'
        '\n[registry."127.0.0.1:65001"]\n  http = true\n'
    )


def test_a_new_buildkitd_toml_is_ours() -> None:
    assert tomllib.loads(plan("buildkit", {}).files[BUILDKIT].decode()) == {
        "registry": {
            "docker.io": {"mirrors": ["127.0.0.1:65001"]},
            "registry.example:5000": {"mirrors": ["127.0.0.1:65001"]},
            "127.0.0.1:65001": {"http": True},
        }
    }


def test_mirrors_that_are_no_list_are_told() -> None:
    with pytest.raises(ConfigureError, match="are no list"):
        plan("buildkit", {BUILDKIT: '[registry."docker.io"]\nmirrors = "a"\n'})


# k3s

K3S = "/etc/rancher/k3s/registries.yaml"


@pytest.mark.parametrize("name", ["k3s", "rke2"])
def test_k3s_and_rke2_get_an_endpoint_for_each_registry(name: str) -> None:
    assert (
        body(plan(name, {}, replace(REQUEST, wildcard=True)).files[f"/etc/rancher/{name}/registries.yaml"])
        == """\
mirrors:
  "docker.io":
    endpoint:
      - "http://127.0.0.1:65001"
  "registry.example:5000":
    endpoint:
      - "http://127.0.0.1:65001"
  "*":
    endpoint:
      - "http://127.0.0.1:65001"
"""
    )


ENTRY = '"docker.io":\n{0}  endpoint:\n{0}    - "http://127.0.0.1:65001"\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("# none yet\n", f"# none yet\nmirrors:\n  {ENTRY.format('  ')}", id="only a comment"),
        pytest.param("mirrors:\n", f"mirrors:\n  {ENTRY.format('  ')}", id="nothing in it"),
        pytest.param("mirrors: {}", f'mirrors: {{"docker.io": {{"endpoint": ["{MIRROR}"]}}}}\n', id="an empty mapping"),
        pytest.param(
            "configs: # of a\n  a: {}\n",
            f"mirrors:\n  {ENTRY.format('  ')}configs: # of a\n  a: {{}}\n",
            id="no mirrors",
        ),
        pytest.param(
            "# mine\nmirrors:\n    # first\n    quay.io: # q\n        endpoint: ['https://q']\nconfigs:\n",
            f"# mine\nmirrors:\n    # first\n    {ENTRY.format('    ')}"
            "    quay.io: # q\n        endpoint: ['https://q']\nconfigs:\n",
            id="another registry",
        ),
        pytest.param(
            "mirrors:\r\n  docker.io:\r\n    endpoint:\r\n    - https://a # near\r\n    - https://b\r\n",
            f'mirrors:\r\n  docker.io:\r\n    endpoint:\r\n    - "{MIRROR}"\r\n    - https://a # near\r\n'
            "    - https://b\r\n",
            id="the registry, carriage returns",
        ),
        pytest.param(
            'mirrors:\n  "docker.io": { endpoint: [ "https://a" ] }\n',
            f'mirrors:\n  "docker.io": {{ endpoint: ["{MIRROR}",  "https://a" ] }}\n',
            id="in flow style",
        ),
        pytest.param(
            'mirrors:\n  "*":\n    endpoint:\n      - https://a\n',
            f'mirrors:\n  "*":\n    endpoint:\n      - "{MIRROR}"\n      - https://a\n',
            id="what holds for it so far is not hidden",
        ),
        pytest.param(
            "mirrors:\n  docker.io:\n  a.example:\n",
            f'mirrors:\n  docker.io:\n    endpoint:\n      - "{MIRROR}"\n  a.example:\n',
            id="a registry without endpoints",
        ),
        pytest.param(
            f"mirrors: {{docker.io: {{endpoint: [{MIRROR}/]}}}}\n",
            f"mirrors: {{docker.io: {{endpoint: [{MIRROR}/]}}}}\n",
            id="it is there",
        ),
    ],
)
def test_an_operators_registries_yaml_gets_the_mirror_first_and_keeps_all_else(before: str, after: str) -> None:
    result = plan("k3s", {K3S: before}, replace(REQUEST, upstreams=(HUB,)))
    assert result.files[K3S].decode() == after


@pytest.mark.parametrize(
    ("text", "pasted"),
    [
        pytest.param("x: &a\n  docker.io: {}\nmirrors: *a\n", f'      - "{MIRROR}"', id="an alias"),
        pytest.param("mirrors: [\n", None, id="no YAML"),
        pytest.param("- a\n", None, id="no mapping"),
        pytest.param(
            "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrstuvw")),
            None,
            id="a bomb of aliases",
        ),
        pytest.param("mirrors: {}\n---\nx: 1\n", None, id="two documents"),
        pytest.param("mirrors:\n  docker.io: {rewrite: {a: b}}\n", None, id="a rewrite"),
        pytest.param("mirrors: 3\n", f"mirrors:\n  {ENTRY.format('  ')}"[:-1], id="a number"),
    ],
)
def test_a_registries_yaml_that_cannot_be_changed_is_told(text: str, pasted: str | None) -> None:
    with pytest.raises(ConfigureError, match="nothing was changed") as raised:
        plan("k3s", {K3S: text}, replace(REQUEST, upstreams=(HUB,)))
    if pasted is not None:
        assert str(raised.value).partition("\n")[2] == pasted


def test_a_registry_with_an_alias_is_refused() -> None:
    text = "mirrors:\n  docker.io: &a\n    endpoint:\n    - https://a\n  quay.io: *a\n"
    with pytest.raises(ConfigureError, match=r"(?s)cannot change safely.*as the first endpoint of docker.io"):
        plan("k3s", {K3S: text}, replace(REQUEST, upstreams=(HUB,)))


# the mirror's address


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (Address("127.0.0.1", 1), "127.0.0.1:1"),
        (Address("0.0.0.0", 1), "127.0.0.1:1"),
        (Address("::", 1), "[::1]:1"),
        (Address("node.example", 1), "node.example:1"),
    ],
)
def test_the_mirror_is_named_as_a_client_reaches_it(address: Address, host: str) -> None:
    assert replace(REQUEST, mirror=address).mirror_url == f"http://{host}"
