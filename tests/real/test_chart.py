"""The Helm chart: what it renders is what Kubernetes and the operators take, and wrong values are refused."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from p2pd.config.settings import KEYS
from p2pd.config.sources import load
from tests.real.helm import CHART, Helm, Object, named, pod_specs
from tests.real.manifests import DOCKER, manifests
from tests.real.programs import ProgramError
from tests.real.vendor_schemas import VERSIONS

VERSION: Final = tomllib.loads((CHART.parents[2] / "pyproject.toml").read_text())["project"]["version"]
EDGE: Final = yaml.safe_load((DOCKER / "k3s-edge.values.yaml").read_text())
TOKEN: Final = f"p2pd1_{'a' * 8}_{'b' * 32}_{'c' * 52}"
CSI: Final = {"csi": {"driver": "csi.cert-manager.io", "readOnly": True, "volumeAttributes": {"a": "b"}}}
ALL_MONITORING: Final = {
    kind: {"enabled": True, "labels": {"release": "x"}} for kind in ("podMonitor", "prometheusRule", "dashboard")
}

CASES: Final[dict[str, Object]] = {
    "as it is": {},
    "edge": EDGE,
    "namespace": {"namespace": {"create": True}},
    "crio": {"runtime": {"kind": "crio"}},
    "docker": {"runtime": {"kind": "docker"}},
    "k3s": {"runtime": {"kind": "k3s"}},
    "rke2": {"runtime": {"kind": "rke2"}},
    "adopts": {"runtime": {"adopt": ["/var/lib/containerd/io.containerd.content.v1.content", "/srv/other"]}},
    "no runtime": {"runtime": {"kind": "none"}},
    "no runtime, cache stays": {"runtime": {"kind": "none"}, "undo": {"removeCache": False}},
    "other directories": {"runtime": {"directories": ["/opt/certs.d"], "args": ["--all", "--upstream=it's"]}},
    "token by hand": {"join": {"publish": False}},
    "token": {"join": {"token": TOKEN}},
    "existing secret": {"join": {"existingSecret": "mine"}},
    "scheduler elsewhere": {
        "scheduler": {"enabled": False, "urls": ["https://a:65003", "https://b:65003"]},
        "join": {"existingSecret": "mine"},
    },
    "certificates": {"certificates": {"volume": CSI}, "scheduler": {"tlsSecret": "scheduler-tls"}},
    "own CA": {"scheduler": {"caSecret": "ca"}},
    "several schedulers": {
        "redis": {"url": "redis+sentinel://a,b:26379/p2pd", "passwordSecret": "redis", "caSecret": "redis-ca"},
        "scheduler": {"replicas": 3, "caSecret": "ca"},
    },
    "several schedulers, cilium": {
        "redis": {"url": "rediss://redis.p2pd.svc", "ports": [6380]},
        "scheduler": {"replicas": 3, "caSecret": "ca"},
        "networkPolicy": {"kind": "cilium"},
        "join": {"existingSecret": "mine"},
    },
    "existing claim": {"scheduler": {"persistence": {"existingClaim": "mine"}}},
    "directory": {"scheduler": {"persistence": {"hostPath": "/srv/p2pd"}}},
    "storage class": {"scheduler": {"persistence": {"storageClass": "fast", "size": "5Gi", "keep": True}}},
    "no persistence": {"scheduler": {"persistence": {"enabled": False}}},
    "no budget": {"scheduler": {"podDisruptionBudget": {"enabled": False}}},
    "upstream files": {"upstreamFiles": {"hub": "a password", "ca.pem": "-----BEGIN\n"}},
    "existing upstream files": {"existingUpstreamFiles": "mine"},
    "no network policy": {"networkPolicy": {"enabled": False}},
    "network policy": {
        "networkPolicy": {"nodeCidrs": ["10.0.0.0/16", "fd00::/8"], "metricsFrom": [{"namespaceSelector": {}}]}
    },
    "cilium": {"networkPolicy": {"kind": "cilium"}},
    "cilium, nothing published": {
        "networkPolicy": {"kind": "cilium", "metricsFrom": [{"matchLabels": {"app": "prometheus"}}]},
        "join": {"existingSecret": "mine"},
    },
    "monitoring": {"monitoring": ALL_MONITORING},
    "no undo": {"undo": {"enabled": False}},
    "IPv6": {"node": {"ipv6": True}},
    "image": {"image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": [{"name": "pull"}]}},
    "pods": {
        kind: {
            "podAnnotations": {"a": "b"},
            "podLabels": {"c": "d"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        }
        for kind in ("node", "scheduler")
    }
    | {"nameOverride": "p2pd-gpu", "ports": {"peer": 7000, "mirror": 7001}},
}
"""What each switch is tried with."""

REFUSED: Final[dict[str, tuple[Object, str]]] = {
    "a value that there is not": ({"sheduler": {}}, "sheduler"),
    "one below": ({"node": {"resource": {}}}, "resource"),
    "runtime": ({"runtime": {"kind": "dockerd"}}, "runtime"),
    "a key of p2pd.toml that there is not": ({"config": {"max_byte": "1GiB"}}, "max_byte"),
    "a key that the chart sets": ({"config": {"allow_open": True}}, "allow_open"),
    "the type of a key": ({"config": {"serve_stale_tags": "yes"}}, "serve_stale_tags"),
    "no upstream": ({"config": {"upstream": []}}, "upstream"),
    "digest": ({"image": {"digest": "sha256:1"}}, "digest"),
    "port": ({"ports": {"peer": 70000}}, "peer"),
    "plain HTTP to the scheduler": ({"scheduler": {"enabled": False, "urls": ["http://a:65003"]}}, "urls"),
    "a service whose variables are settings": ({"scheduler": {"name": "p2pd-scheduler"}}, "name"),
    "a relative directory": ({"runtime": {"directories": ["etc"]}}, "directories"),
    "not a token": ({"join": {"token": "secret"}}, "token"),
    "kind of policy": ({"networkPolicy": {"kind": "calico"}}, "networkPolicy"),
    "no scheduler": ({"scheduler": {"enabled": False}}, "scheduler.urls"),
    "no token": ({"scheduler": {"enabled": False, "urls": ["https://a:65003"]}}, "join.existingSecret"),
    "several without Redis": ({"scheduler": {"replicas": 3, "caSecret": "ca"}}, "redis.url"),
    "several with several CAs": ({"scheduler": {"replicas": 3}, "redis": {"url": "redis://a"}}, "scheduler.caSecret"),
    "a password of Redis for all to see": (
        {"redis": {"url": "redis://:secret@a"}, "scheduler": {"caSecret": "ca"}},
        "url",
    ),
    "half of the certificates": ({"scheduler": {"tlsSecret": "x"}}, "certificates.volume"),
    "certificate and CA": (
        {"scheduler": {"tlsSecret": "x", "caSecret": "y"}, "certificates": {"volume": CSI}},
        "caSecret",
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_what_is_rendered(helm: Helm, version: str) -> None:
    helm.check({case: helm.objects(values) for case, values in CASES.items()}, version)


@pytest.mark.parametrize("case", CASES)
def test_containers_have_no_more_rights_than_they_need(helm: Helm, case: str) -> None:
    for spec in pod_specs(helm.objects(CASES[case])):
        assert spec["automountServiceAccountToken"] is False
        mounted = set()
        for container in spec.get("initContainers", []) + spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"]["drop"] == ["ALL"]
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert context.get("runAsNonRoot") or container in spec["initContainers"]
            assert container["resources"]["limits"]["memory"]
            mounted |= {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_content_stores_are_mounted_for_reading(helm: Helm) -> None:
    directories = ["/var/lib/containerd/io.containerd.content.v1.content", "/srv/other"]
    [spec] = [
        spec
        for spec in pod_specs(helm.objects({"runtime": {"adopt": directories}}))
        if any(container["name"] == "p2pd" for container in spec["containers"])
    ]
    [container] = spec["containers"]
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    paths = {each["name"]: each["hostPath"]["path"] for each in spec["volumes"] if "hostPath" in each}
    [adopt] = [each["value"] for each in container["env"] if each["name"] == "P2PD_ADOPT"]
    assert [paths[mounts[where]["name"]] for where in adopt.split()] == directories
    assert all(mounts[where]["readOnly"] for where in adopt.split())


def test_lint_and_package(helm: Helm, tmp_path: Path) -> None:
    """In a package, the files of the repository that are links in the chart are files."""
    assert "0 chart(s) failed" in helm.run("lint", "--strict", CHART)
    helm.run("package", CHART, "-d", tmp_path)
    (package,) = tmp_path.iterdir()
    assert package.name == f"p2pd-{VERSION}.tgz"
    with_monitoring = ["--set", "monitoring.prometheusRule.enabled=true,monitoring.dashboard.enabled=true"]
    texts = [helm.run("template", "p2pd", chart, "-n", "p2pd", *with_monitoring) for chart in (CHART, package)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_values_are_refused(helm: Helm, case: str) -> None:
    values, said = REFUSED[case]
    with pytest.raises(ProgramError, match=re.escape(said)):
        helm.objects(values)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("DaemonSet", ("spec", "template", "spec")),
        ("NetworkPolicy", ("spec",)),
        ("PodMonitor", ("spec",)),
        ("PrometheusRule", ("spec",)),
        ("CiliumNetworkPolicy", ("spec",)),
    ],
)
def test_fields_that_kubernetes_does_not_have_are_found(helm: Helm, kind: str, path: tuple[str, ...]) -> None:
    policy = {"kind": "cilium"} if kind == "CiliumNetworkPolicy" else {}
    objects = helm.objects({"monitoring": ALL_MONITORING, "networkPolicy": policy})
    place: Any = next(each for each in objects if each["kind"] == kind)
    for key in path:
        place = place[key]
    place["hostNetworks"] = True
    with pytest.raises(ProgramError, match="hostNetworks"):
        helm.check({"x": objects}, VERSIONS[-1])


def test_a_kind_without_a_schema_is_found(helm: Helm) -> None:
    with pytest.raises(ProgramError, match="anyOf"):
        helm.check({"x": [{"apiVersion": "v1", "kind": "Pods", "metadata": {"name": "x"}}]}, VERSIONS[-1])


def test_the_manifests_are_those_of_the_chart(helm: Helm) -> None:
    for file, text in manifests(helm).items():
        assert (DOCKER / file).read_text() == text, "run `make docs`"


# -- Configuration -----------------------------------------------------------------------------------------------------


def test_the_schema_has_the_keys_of_p2pd() -> None:
    """All that the chart does not set itself, so that a new key can be set."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    own = {"mirror", "admin", "metrics", "peer", "advertise", "scheduler", "listen", "data", "allow_open"}
    own |= {"join", "join_file", "tls_dir", "ca_cert", "ca_key", "certificate_ttl_s"}
    own |= {"redis", "redis_password_file", "redis_ca", "redis_prefix"}
    assert set(schema["properties"]["config"]["properties"]) == set(KEYS) - own


def test_several_schedulers_are_spread_and_find_redis(helm: Helm) -> None:
    objects = helm.objects(CASES["several schedulers"])
    assert not [each for each in objects if each["kind"] == "PersistentVolumeClaim"]
    spec = named(objects, "Deployment", "scheduler")["spec"]
    assert spec["replicas"] == 3
    pod = spec["template"]["spec"]
    keys = [each["topologyKey"] for each in pod["topologySpreadConstraints"]]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    for container in pod["containers"]:
        environ = {each["name"]: each.get("value", "") for each in container["env"]}
        settings = load({}, {name: text for name, text in environ.items() if name.startswith("P2PD_")})
        assert settings.redis is not None
        assert settings.redis.hosts == (("a", 26379), ("b", 26379))
        mounted = {each["mountPath"] for each in container["volumeMounts"]}
        assert {str(settings.redis_password_file.parent), str(settings.redis_ca.parent)} <= mounted  # type: ignore[union-attr]
    assert "--advertise=$(POD_IP):65003" in pod["containers"][0]["args"]


def test_p2pd_reads_what_is_rendered(helm: Helm, tmp_path: Path) -> None:
    config = {
        "upstream": ["docker.io=https://registry-1.docker.io;username=me;password_file=/x", "ghcr.io"],
        "max_bytes": 53687091200,
        "min_free_bytes": "20GiB",
        "ttl_s": "7d",
        "serve_stale_tags": True,
        "prefetch_layers": 5,
        "rack": "r/1",
    }
    file = tmp_path / "p2pd.toml"
    for values in ({"config": config, "ports": {"mirror": 7001}}, EDGE, {}):
        file.write_text(named(helm.objects(values), "ConfigMap", "p2pd")["data"]["p2pd.toml"])
        settings = load({}, {}, file=file)
        if values.get("config") is config:
            assert (settings.max_bytes, settings.ttl_s, settings.rack) == (50 << 30, 7 * 86400, "r/1")
            assert (settings.mirror.port, len(settings.upstream)) == (7001, 2)


def test_another_configuration_is_another_pod(helm: Helm) -> None:
    def checksum(values: Object) -> str:
        annotations = named(helm.objects(values), "DaemonSet", "p2pd")["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    sums = [checksum(values) for values in ({}, {"config": {"ttl_s": "1d"}}, {"upstreamFiles": {"hub": "a"}})]
    assert len(set(sums)) == 3
    assert checksum({"node": {"podLabels": {"a": "b"}}}) == sums[0]


# -- Objects -----------------------------------------------------------------------------------------------------------


def test_only_the_publisher_has_an_account_and_may_change_one_secret(helm: Helm) -> None:
    objects = helm.objects({}, "--no-hooks")
    for spec in pod_specs(objects):
        holders = [
            container["name"]
            for container in spec.get("initContainers", []) + spec["containers"]
            if any("serviceaccount" in mount["mountPath"] for mount in container["volumeMounts"])
        ]
        assert holders in ([], ["token"])
    (role,) = [each for each in objects if each["kind"] == "Role"]
    secret = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["join"], "verbs": ["get", "patch"]}
    assert role["rules"] == [secret]
    assert "data" not in named(objects, "Secret", "join"), "an upgrade leaves the token there"
    assert not [
        each
        for each in helm.objects({"join": {"existingSecret": "mine"}}, "--no-hooks")
        if each["kind"] in ("Role", "Secret")
    ]


def test_monitoring_has_the_files_of_the_repository(helm: Helm) -> None:
    objects = helm.objects({"monitoring": ALL_MONITORING})
    rules = yaml.safe_load((DOCKER / "prometheus-rules.yaml").read_text())
    assert named(objects, "PrometheusRule", "p2pd")["spec"] == rules
    dashboard = named(objects, "ConfigMap", "p2pd-dashboard")["data"]["p2pd.json"]
    assert json.loads(dashboard) == json.loads((DOCKER / "grafana-dashboard.json").read_text())
    for file in ("prometheus-rules.yaml", "grafana-dashboard.json"):
        assert (CHART / "files" / file).is_symlink()
    monitor = named(objects, "PodMonitor", "p2pd")["spec"]
    ((label, value),) = monitor["selector"]["matchLabels"].items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    scraped = [each["spec"]["template"] for each in objects if "template" in each.get("spec", {})]
    scraped = [each for each in scraped if each["metadata"]["labels"].get(label) == value]
    assert len(scraped) == 2
    for template in scraped:
        assert endpoint["port"] in [port["name"] for port in template["spec"]["containers"][0]["ports"]]


def test_undo_has_what_configure_had(helm: Helm) -> None:
    for case in ("as it is", "crio", "k3s", "rke2", "docker", "other directories"):
        objects = helm.objects(CASES[case])
        node, undo = (named(objects, "DaemonSet", name)["spec"]["template"]["spec"] for name in ("p2pd", "p2pd-undo"))
        configure, data = node["initContainers"]
        undone, emptied = undo["initContainers"]
        assert undone["volumeMounts"] == [each for each in configure["volumeMounts"] if each["name"] != "config"]
        assert emptied["volumeMounts"] == data["volumeMounts"]
        volumes = [[each for each in spec["volumes"] if "hostPath" in each] for spec in (node, undo)]
        assert sorted(volumes[0], key=str) == sorted(volumes[1], key=str)
        assert undo["tolerations"] == node["tolerations"]
        assert undo["nodeSelector"] == node["nodeSelector"]
    assert not [each for each in helm.objects({"undo": {"enabled": False}}) if "undo" in each["metadata"]["name"]]
    kept = named(helm.objects({"undo": {"removeCache": False}}), "DaemonSet", "p2pd-undo")["spec"]["template"]["spec"]
    assert [each["name"] for each in kept["initContainers"]] == ["undo"]


def test_all_of_undo_is_a_hook_and_nothing_else_is(helm: Helm) -> None:
    for each in helm.objects({"monitoring": ALL_MONITORING}):
        is_hook = "helm.sh/hook" in each["metadata"].get("annotations", {})
        assert is_hook == (each["metadata"]["name"] == "p2pd-undo")
        if is_hook:
            removed = "hook-succeeded" in each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
            assert removed == (each["kind"] != "DaemonSet"), "where the wait fails, Helm removes what succeeded before"


def test_the_policy_lets_the_publisher_reach_the_api_and_nobody_else_out(helm: Helm) -> None:
    closed = {"join": {"existingSecret": "mine"}}
    assert named(helm.objects({}), "NetworkPolicy", "scheduler")["spec"]["egress"] != []
    assert named(helm.objects(closed), "NetworkPolicy", "scheduler")["spec"]["egress"] == []
    cilium = copy.deepcopy(closed) | {"networkPolicy": {"kind": "cilium"}}
    assert named(helm.objects(cilium), "CiliumNetworkPolicy", "scheduler")["spec"]["egress"] == [{}]


@pytest.mark.parametrize(
    ("case", "said", "unsaid"),
    [
        ("as it is", "logs deploy/scheduler -c token", "create secret"),
        ("token by hand", "create secret generic join", "-c token"),
        ("no runtime", "127.0.0.1:65001", "CONFIGURE"),
        ("no persistence", "the scheduler's CA is lost", "create secret"),
        ("namespace", "helm uninstall", "kubectl label namespace"),
        ("no undo", "kubectl label namespace", "helm uninstall"),
    ],
)
def test_the_notes_say_what_has_to_be_done(helm: Helm, case: str, said: str, unsaid: str) -> None:
    notes = helm.notes(CASES[case])
    assert said in notes
    assert unsaid not in notes
