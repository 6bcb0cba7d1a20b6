"""Network policies of infra/k8s: who may call whom, as a cluster would decide it."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes_containers import documents, pods

Labels = dict[str, str]
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator", "app.kubernetes.io/component": "kuberay-operator"}
STRANGERS: dict[str, Labels] = {
    "another team's Ray": {
        "app.kubernetes.io/name": "kuberay",
        "ray.io/node-type": "worker",
        "ray.io/cluster": "theirs",
    },
    "another team's worker": {"app": "worker", "frostline": "client"},
    "the operator": OPERATOR,
    "Prometheus": {"app.kubernetes.io/name": "prometheus"},
}
"""Pods of other namespaces, as KubeRay and the charts of the operator and of Prometheus label theirs."""
PORTS = {
    "prefect": 4200,
    "mlflow": 5000,
    "metrics": 9464,
    "reaper": 8080,
    "deployments": 8080,
    "ray": 31000,
    "worker": 31000,
}
"""Where each listens, or one that Ray might choose."""
CLIENTS = {"deployments", "metrics", "ray", "reaper", "worker"}
CALLS = {
    *((client, server) for client in CLIENTS for server in ("prefect", "mlflow")),
    *((one, other) for one in ("ray", "worker") for other in ("ray", "worker")),
    ("Prometheus", "metrics"),
}


@pytest.fixture
def found() -> list[dict[str, Any]]:
    return documents()


def selects(selector: dict[str, Any], labels: Labels) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    among = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in among)
    return wanted <= labels.items() and all(labels.get(each["key"]) in each["values"] for each in among)


def meets(peer: dict[str, Any], labels: Labels, is_ours: bool) -> bool:
    if "ipBlock" in peer:
        return False  # an address outside of the cluster
    spaces = peer.get("namespaceSelector")
    assert spaces in (None, {})  # our namespace, or any
    return (is_ours or spaces == {}) and selects(peer.get("podSelector", {}), labels)


def allows(found: list[dict[str, Any]], way: str, pod: Labels, peer: tuple[Labels, bool], port: int) -> bool:
    """Whether a policy lets our pod be called by the peer (`ingress`), or call it (`egress`)."""
    sides = {"ingress": "from", "egress": "to"}
    specs = [one["spec"] for one in found if one["kind"] == "NetworkPolicy"]
    about = [spec for spec in specs if way.title() in spec["policyTypes"] and selects(spec["podSelector"], pod)]
    assert about, f"{pod}: no policy, so all is open"
    return any(
        (sides[way] not in rule or any(meets(each, *peer) for each in rule[sides[way]]))
        and ("ports" not in rule or port in [each["port"] for each in rule["ports"]])
        for spec in about
        for rule in spec.get(way, [])
    )


def calls(found: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(caller, called) that the policies of both ends allow; those of other namespaces allow whatever they may."""
    ours: dict[str, Labels] = {template["metadata"]["labels"]["app"]: {} for _, _, template in pods(found)}
    for _, kind, template in pods(found):
        added = {"app.kubernetes.io/name": "kuberay", "ray.io/cluster": "frostline"} if kind == "RayCluster" else {}
        ours[template["metadata"]["labels"]["app"]] = {**added, **template["metadata"]["labels"]}
    for called, labels in ours.items():
        for caller, theirs in ours.items():
            if allows(found, "ingress", labels, (theirs, True), PORTS[called]) and allows(
                found, "egress", theirs, (labels, True), PORTS[called]
            ):
                yield caller, called
        for caller, theirs in STRANGERS.items():
            if allows(found, "ingress", labels, (theirs, False), PORTS[called]):
                yield caller, called


def test_each_pod_is_called_by_those_that_need_it_and_by_nobody_else(found: list[dict[str, Any]]) -> None:
    assert set(calls(found)) == CALLS


@pytest.mark.parametrize(
    ("labels", "strangers"),
    [({"app.kubernetes.io/name": "kuberay"}, {"another team's Ray"}), (OPERATOR, {"the operator"}), ({}, {*STRANGERS})],
)
def test_a_rule_for_pods_of_any_namespace_is_seen_by_whom_it_lets_in(
    found: list[dict[str, Any]], labels: Labels, strangers: set[str]
) -> None:
    changed = copy.deepcopy(found)
    (ray,) = [one for one in changed if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "ray"]
    peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": labels}}
    ray["spec"]["ingress"].append({"from": [peer]})
    added = set(calls(changed)) - CALLS
    assert {caller for caller, _ in added} & STRANGERS.keys() == strangers
    assert {called for caller, called in added if caller in strangers} == {"ray", "worker"}


def test_a_pod_without_its_label_reaches_nothing(found: list[dict[str, Any]]) -> None:
    for _, _, template in pods(found):
        template["metadata"]["labels"].pop("frostline", None)
    assert {called for _, called in calls(found)} == {"ray", "worker", "metrics"}
