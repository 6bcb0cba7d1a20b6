"""infra/compose.yaml: taken by Docker Compose, and right in what Compose cannot know."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from deployed import (
    COMPOSE,
    REPOSITORY,
    compose_config,
    containers_of_compose,
    literal_secrets,
    unpinned,
)
from moto_s3 import aws_variables, moto_s3

GPU = COMPOSE.with_name("compose.gpu.yaml")


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return compose_config(COMPOSE)


def changed(config: dict[str, Any], service: str, **fields: Any) -> dict[str, Any]:
    made = copy.deepcopy(config)
    made["services"][service] |= fields
    return made


def with_variable(config: dict[str, Any], service: str, name: str, value: str) -> dict[str, Any]:
    return changed(config, service, environment={**config["services"][service]["environment"], name: value})


def test_compose_takes_both_files_for_both_targets() -> None:
    assert compose_config(COMPOSE)["services"]["reaper"]["build"]["target"] == "cpu"
    on_gpus = compose_config(COMPOSE, GPU, environment={"FROSTLINE_TARGET": "gpu"})["services"]
    assert on_gpus["ray-worker"]["build"]["target"] == "gpu"
    assert on_gpus["ray-worker"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_compose_refuses_a_service_that_waits_for_none_that_exists(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("depends_on: {prefect-db:", "depends_on: {postgres:"))
    with pytest.raises(AssertionError, match="postgres"):
        compose_config(wrong)


def test_every_image_is_pinned(config: dict[str, Any]) -> None:
    assert unpinned(containers_of_compose(config)) == []
    for image in ("postgres:17", "postgres:latest", "frostline", "frostline:latest"):
        assert unpinned(containers_of_compose(changed(config, "s3", image=image)))


def test_no_secret_is_written_out(config: dict[str, Any]) -> None:
    assert literal_secrets(containers_of_compose(config)) == []
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "FROSTLINE_WEBHOOK_URL"):
        assert literal_secrets(containers_of_compose(with_variable(config, "worker", name, "hunter2")))
    address = "postgresql+psycopg://mlflow:hunter2@mlflow-db/mlflow"
    assert literal_secrets(containers_of_compose(with_variable(config, "mlflow", "MLFLOW_BACKEND_STORE_URI", address)))


def loose(config: dict[str, Any]) -> list[str]:
    """Services that may do more than they need."""
    found = []
    for name, service in config["services"].items():
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if not (
            service.get("read_only") and service.get("cap_drop") == ["ALL"]
            and limits.get("memory") and limits.get("cpus")
            and service.get("security_opt") == ["no-new-privileges:true"] and not service.get("privileged")
        ):  # fmt: skip
            found.append(name)
        found += [f"{name} publishes {port}" for port in service.get("ports", []) if port.get("host_ip") != "127.0.0.1"]
    return found


def test_every_service_is_confined_and_published_on_loopback_only(config: dict[str, Any]) -> None:
    assert loose(config) == []
    assert loose(changed(config, "reaper", read_only=False)) == ["reaper"]
    assert loose(changed(config, "worker", cap_drop=[])) == ["worker"]
    assert loose(changed(config, "worker", deploy={})) == ["worker"]
    assert loose(changed(config, "mlflow", ports=[{"target": 5000, "published": "5000"}]))


def starts_too_early(config: dict[str, Any]) -> list[str]:
    """Services that do not wait until what they need is healthy, or done."""
    services = config["services"]
    found = []
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            is_server = services[needed].get("healthcheck", {}).get("test")
            wanted = "service_healthy" if is_server else "service_completed_successfully"
            if how["condition"] != wanted:
                found.append(f"{name} → {needed}")
    needs = {
        "prefect": "prefect-db",
        "mlflow": "mlflow-db",
        "bucket": "s3",
        "worker": "deployments",
        "reaper": "prefect",
    }
    return found + [
        f"{one} → {other}" for one, other in needs.items() if other not in services[one].get("depends_on", {})
    ]


def test_every_service_waits_for_what_it_needs(config: dict[str, Any]) -> None:
    assert starts_too_early(config) == []
    assert starts_too_early(changed(config, "prefect", depends_on={"prefect-db": {"condition": "service_started"}}))
    assert starts_too_early(changed(config, "reaper", depends_on={}))


def unanswered(config: dict[str, Any]) -> list[str]:
    """Addresses of services at which none of that name listens, or on another network."""
    services = config["services"]
    listens = {
        "prefect-db": "5432", "mlflow-db": "5432", "s3": "8333", "prefect": "4200", "mlflow": "5000",
        "ray-head": "6379",
    }  # fmt: skip
    found = [
        f"{name} listens elsewhere"
        for name in ("s3", "prefect", "mlflow", "ray-head")
        if not re.search(rf"\b{listens[name]}\b", " ".join(services[name]["command"]))
    ]
    for name, service in services.items():
        said = [*service.get("environment", {}).values(), " ".join(service.get("command") or [])]
        for host, port in re.findall(r"(?:[/@=])([a-z][\w-]*):(\d+)", " ".join(map(str, said))):
            if host in ("localhost",):
                continue
            if listens.get(host) != port:
                found.append(f"{name}: {host}:{port}")
            elif host != name and not set(service["networks"]) & set(services[host]["networks"]):
                found.append(f"{name}: {host} is on another network")
    return found


def test_every_address_is_one_where_a_service_listens(config: dict[str, Any]) -> None:
    assert unanswered(config) == []
    assert unanswered(with_variable(config, "worker", "MLFLOW_TRACKING_URI", "http://mlflow:5001"))
    assert unanswered(with_variable(config, "worker", "PREFECT_API_URL", "http://orion:4200/api"))
    assert unanswered(with_variable(config, "worker", "X", "postgresql://prefect@prefect-db:5432/prefect"))
    assert unanswered(changed(config, "s3", command=["server", "-s3", "-s3.port=9000"]))
    users = (REPOSITORY / "infra" / "docker" / "mlflow_auth.ini").read_text()
    backend = config["services"]["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert f"database_uri = {backend}\n" in users


def test_make_secrets_makes_every_file_that_compose_mounts_and_closes_them(
    config: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    command = [sys.executable, str(REPOSITORY / "infra" / "docker" / "make_secrets.py"), str(folder)]
    subprocess.run(command, check=True, umask=0o077)
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}  # containers have other users
    mounted = compose_config(COMPOSE, environment={"FROSTLINE_SECRETS": str(folder)})["secrets"]
    assert {Path(each["file"]) for each in mounted.values()} == set(folder.iterdir())
    assert folder.stat().st_mode & 0o077 == 0
    before = {file.name: file.read_text() for file in folder.iterdir()}
    subprocess.run(command, check=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == before
    ignored = subprocess.run(["git", "check-ignore", "infra/secrets/RAY_AUTH_TOKEN"], cwd=REPOSITORY, check=False)
    assert ignored.returncode == 0


def test_secrets_become_variables_and_empty_ones_do_not(tmp_path: Path) -> None:
    (tmp_path / "RAY_AUTH_TOKEN").write_text("a b'c\n")
    (tmp_path / "FROSTLINE_WEBHOOK_URL").write_text("")
    (tmp_path / "s3.json").write_text("{}")
    script = REPOSITORY / "infra" / "docker" / "with_secrets.sh"
    environment = {"PATH": os.environ["PATH"], "FROSTLINE_SECRETS_DIR": str(tmp_path)}
    told = subprocess.run([str(script), "env"], env=environment, capture_output=True, text=True, check=True).stdout
    assert "RAY_AUTH_TOKEN=a b'c\n" in told
    assert "FROSTLINE_WEBHOOK_URL" not in told and "s3" not in told
    nowhere = {**environment, "FROSTLINE_SECRETS_DIR": str(tmp_path / "none")}
    assert subprocess.run([str(script), "true"], env=nowhere, check=False).returncode == 0


def test_a_secret_that_cannot_be_read_keeps_the_program_from_starting(tmp_path: Path) -> None:
    (tmp_path / "RAY_AUTH_TOKEN").mkdir()
    script = REPOSITORY / "infra" / "docker" / "with_secrets.sh"
    environment = {"PATH": os.environ["PATH"], "FROSTLINE_SECRETS_DIR": str(tmp_path)}
    done = subprocess.run(
        [str(script), "echo", "started"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "started" not in done.stdout


@pytest.mark.slow
def test_the_bucket_is_made_by_its_command_once_and_again(config: dict[str, Any], tmp_path: Path) -> None:
    _, *arguments = config["services"]["bucket"]["command"]
    with moto_s3(tmp_path / "s3.log") as endpoint:
        environment = {**os.environ, **aws_variables(endpoint)}
        for _ in range(2):
            subprocess.run([sys.executable, *arguments], env=environment, check=True)
        import s3fs

        found = s3fs.S3FileSystem(key="test", secret="test", endpoint_url=endpoint).ls("")
    assert found == ["frostline"]
