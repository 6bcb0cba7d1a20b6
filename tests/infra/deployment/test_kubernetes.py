"""infra/k8s: valid for Kubernetes, and right in what a schema cannot know. No package carries KubeRay's schema: the
pod templates of the RayCluster are validated as the pod templates they are, its other fields are not."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deployed import REPOSITORY, Container, literal_secrets, unpinned
from kubernetes_containers import BASE, containers, documents, pods

GPU = BASE.parent / "gpu" / "kustomization.yaml"
VERSION = "1.33"


@pytest.fixture
def found() -> list[dict[str, Any]]:
    return documents()


def named(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(one for one in found if one["kind"] == kind and one["metadata"]["name"] == name)


def as_validated(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in found:
        if one["kind"] == "RayCluster":
            for name, _, template in pods([one]):
                yield {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
        else:
            yield one


def test_kubernetes_takes_every_document(found: list[dict[str, Any]]) -> None:
    for one in as_validated(found):
        kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.parametrize("kind, name", [("Deployment", "worker"), ("RayCluster", "frostline")])
def test_a_misspelt_field_is_found(found: list[dict[str, Any]], kind: str, name: str) -> None:
    _, _, template = next(pods([named(found, kind, name)]))
    template["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        test_kubernetes_takes_every_document(found)


def test_the_base_names_every_file_and_the_gpu_patch_meets_what_is_there(found: list[dict[str, Any]]) -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(file.name for file in BASE.glob("*.yaml") if file.name != "kustomization.yaml")
    (patch,) = yaml.safe_load(GPU.read_text())["patches"]
    ray = named(found, patch["target"]["kind"], patch["target"]["name"])
    for change in yaml.safe_load(patch["patch"]):
        place: Any = ray
        for key in change["path"].strip("/").split("/")[: -1 if change["op"] == "add" else None]:
            place = place[int(key) if isinstance(place, list) else key]


def loose(found: list[dict[str, Any]]) -> list[str]:
    """Containers that may do more than they need."""
    wrong = []
    for name, kind, template in pods(found):
        spec = template["spec"]
        whole = spec.get("securityContext", {})
        if not (whole.get("runAsNonRoot") and whole.get("seccompProfile") == {"type": "RuntimeDefault"}):
            wrong.append(f"{name}: pod")
        if spec.get("automountServiceAccountToken") is not False:
            wrong.append(f"{name}: service account")
        if kind == "RayCluster" or name == "worker":
            shm = [each for each in spec["volumes"] if each.get("emptyDir", {}).get("medium") == "Memory"]
            if not shm or spec.get("terminationGracePeriodSeconds", 30) < 120:
                wrong.append(f"{name}: shared memory or grace")
        for one in spec["containers"]:
            own = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            resources = one.get("resources", {})
            if one.get("securityContext") != own or not all(
                resources.get(part, {}).get(what) for part in ("requests", "limits") for what in ("cpu", "memory")
            ):
                wrong.append(f"{name}: container")
    return wrong


def test_every_pod_is_confined(found: list[dict[str, Any]]) -> None:
    assert loose(found) == []
    for path in (("securityContext",), ("automountServiceAccountToken",), ("terminationGracePeriodSeconds",)):
        changed = copy.deepcopy(found)
        del named(changed, "Deployment", "worker")["spec"]["template"]["spec"][path[0]]
        assert loose(changed), path
    for key in ("securityContext", "resources"):
        changed = copy.deepcopy(found)
        del named(changed, "Deployment", "reaper")["spec"]["template"]["spec"]["containers"][0][key]
        assert loose(changed) == ["reaper: container"]


def test_every_image_is_pinned_and_no_secret_is_written_out(found: list[dict[str, Any]]) -> None:
    assert not any(one["kind"] == "Secret" for one in found)
    assert unpinned(containers(found)) == literal_secrets(containers(found)) == []
    assert unpinned([Container("one", "frostline:latest")])
    _, _, template = next(pods([named(found, "Deployment", "reaper")]))
    template["spec"]["containers"][0]["env"].append({"name": "MLFLOW_TRACKING_PASSWORD", "value": "hunter2"})
    assert literal_secrets(containers(found))


def undocumented(found: list[dict[str, Any]], readme: str) -> list[str]:
    """Keys of secrets that the list for whoever makes them lacks."""
    keys = set(re.findall(r"'secretKeyRef': \{'name': '([\w-]+)', 'key': '(\w+)'", str(found)))
    assert len(keys) >= 9
    return [f"{name}/{key}" for name, key in sorted(keys) if not re.search(rf"`{name}`.*`{key}`", readme)]


def test_every_key_of_a_secret_is_documented(found: list[dict[str, Any]]) -> None:
    readme = (REPOSITORY / "infra" / "README.md").read_text()
    assert undocumented(found, readme) == []
    assert undocumented(found, readme.replace("RAY_AUTH_TOKEN", "")) == ["frostline-ray/RAY_AUTH_TOKEN"]


def unanswered(found: list[dict[str, Any]]) -> list[str]:
    """Addresses of Services that do not exist, or lead to no port of a container; pods that the policies forget."""
    listens = {
        one["metadata"]["name"]: one["spec"]["ports"][0]["targetPort"] for one in found if one["kind"] == "Service"
    }
    ports = {
        template["metadata"]["labels"]["app"]: port["containerPort"]
        for _, _, template in pods(found)
        for one in template["spec"]["containers"]
        for port in one.get("ports", [])
    }
    wrong = [name for name, port in listens.items() if ports.get(name) != port]
    listens["frostline-head-svc"] = ports.get("ray")  # KubeRay names it after the cluster
    said = re.findall(r"(?:://|=|')([a-z][a-z-]*):(\d{4})\b", str([*found]))
    wrong += [f"{host}:{port}" for host, port in said if host != "localhost" and listens.get(host) != int(port)]
    denied = named(found, "NetworkPolicy", "default-deny")["spec"]
    if denied != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
        wrong.append("not all is denied at first")
    return wrong


def test_every_address_is_one_where_a_pod_listens(found: list[dict[str, Any]]) -> None:
    assert unanswered(found) == []
    for kind, name, old, new in (
        ("ConfigMap", "frostline", "http://mlflow:5000", "http://mlflow:5001"),
        ("ConfigMap", "frostline", "http://prefect:4200", "http://orion:4200"),
        ("Service", "prefect", "'targetPort': 4200", "'targetPort': 4201"),
        ("NetworkPolicy", "default-deny", "'Ingress', ", ""),
    ):
        changed = [one for one in found if one is not named(found, kind, name)]
        changed.append(yaml.safe_load(str(named(found, kind, name)).replace(old, new)))
        assert unanswered(changed), new
