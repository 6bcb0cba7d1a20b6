"""Commands and variables of every container, against the programs that read them."""

import pytest
from deployed import COMPOSE, Container, compose_config, containers_of_compose, unknown_commands, unknown_variables
from kubernetes_containers import containers, documents

pytestmark = pytest.mark.slow  # imports Prefect, MLflow and Ray


def everything() -> list[Container]:
    return [*containers_of_compose(compose_config(COMPOSE)), *containers(documents())]


def container(*command: str, **environment: str) -> Container:
    return Container("one", "frostline:0.1.0", (command,) if command else (), environment)


def test_every_variable_is_known_to_who_reads_it() -> None:
    assert unknown_variables(everything()) == []
    for typo in ("FROSTLINE_STORE_URL", "PREFECT_API_URI", "MLFLOW_TRACKING_URL", "MLFLOW_BACKEND_URI"):
        assert unknown_variables([container(**{typo: "x"})]) == [f"one: {typo}"]


def test_every_command_is_one_that_its_program_takes() -> None:
    assert unknown_commands(everything()) == []
    assert any("drain" in " ".join(command) for one in everything() for command in one.commands)
    for wrong in (
        ["frostline", "reaper"],
        ["frostline", "reap", "--each", "15"],
        ["prefect", "worker", "start", "--poool", "local"],
        ["mlflow", "server", "--artefacts", "x"],
        ["ray", "start", "--haed"],
        ["sh", "-c", "exec python -m infra.drain --grace 90 prefect worker begin"],
        ["sh", "-c", "exec python -m infra.drain --whlie true prefect worker start --pool local"],
        ["python", "-m", "infra.drian"],
        ["python", "-c", "import"],
        ["frostline-worker"],
    ):
        assert unknown_commands([container(*wrong)]), wrong
