"""What infra/k8s/base says, without kustomize."""

from collections.abc import Iterator
from typing import Any

import yaml
from deployed import REPOSITORY, Container

BASE = REPOSITORY / "infra" / "k8s" / "base"


def documents() -> list[dict[str, Any]]:
    files = [file for file in sorted(BASE.glob("*.yaml")) if file.name != "kustomization.yaml"]
    return [one for file in files for one in yaml.safe_load_all(file.read_text())]


def pods(found: list[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, kind, pod template) of whatever makes pods."""
    for one in found:
        name, spec = one["metadata"]["name"], one.get("spec", {})
        if one["kind"] == "RayCluster":
            yield f"{name}-head", one["kind"], spec["headGroupSpec"]["template"]
            for group in spec["workerGroupSpecs"]:
                yield f"{name}-{group['groupName']}", one["kind"], group["template"]
        elif "template" in spec:
            yield name, one["kind"], spec["template"]


def containers(found: list[dict[str, Any]]) -> list[Container]:
    settings = {one["metadata"]["name"]: one["data"] for one in found if one["kind"] == "ConfigMap"}
    made = []
    for name, _, template in pods(found):
        for one in template["spec"]["containers"]:
            environment = {each["name"]: each.get("value") for each in one.get("env", [])}
            for each in one.get("envFrom", []):
                environment |= settings[each["configMapRef"]["name"]]
            probes = [one.get(f"{kind}Probe", {}).get("exec", {}).get("command") for kind in ("liveness", "readiness")]
            commands = tuple(tuple(command) for command in (one.get("args"), *probes) if command)
            made.append(Container(name, one["image"], commands, environment))
    return made
