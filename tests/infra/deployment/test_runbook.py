"""infra/RUNBOOK.md speaks of what exists."""

import re
from collections.abc import Iterator
from importlib import import_module

import pytest
from deployed import REPOSITORY
from kubernetes_containers import documents, pods
from typer.main import get_command

from flows.cli import app
from infra.errors import FrostlineError

ALERTS = {
    "dead flow run", "claim waits", "store not writable", "disk full", "candidate refused", "rolled back",
    "waits for approval", "flow run failed", "drift",
    "worker starts again and again",
    "MLflow away", "Prefect away", "quarantine grows", "loss not finite", "rank hung", "damaged output",
}  # fmt: skip


@pytest.fixture(scope="module")
def text() -> str:
    return (REPOSITORY / "infra" / "RUNBOOK.md").read_text()


def with_subclasses(one: type[FrostlineError]) -> Iterator[type[FrostlineError]]:
    yield one
    for other in one.__subclasses__():
        yield from with_subclasses(other)


def wrong_classes(text: str) -> list[str]:
    """Error classes that it lacks, or whose exit code it has wrong."""
    import_module("data_prep.images")
    found = []
    for one in with_subclasses(FrostlineError):
        rows = re.findall(rf"^\| `{one.__name__}` \| (\d+) \|", text, re.M)
        is_told = rows == [str(one.exit_code)] or (not rows and f"`{one.__name__}` is one" in text)
        if one.__module__.partition(".")[0] in ("infra", "data_prep", "training", "flows") and not is_told:
            found.append(one.__name__)
    return found


def test_every_error_class_is_there_with_its_exit_code(text: str) -> None:
    assert wrong_classes(text) == []
    assert wrong_classes(text.replace("| `Held` | 75 |", "| `Held` | 5 |")) == ["Held"]
    assert wrong_classes(text.replace("`ImageError`", "`PictureError`")) == ["ImageError"]
    named = set(re.findall(r"`(\w+Error)`", text))
    assert named <= {one.__name__ for one in with_subclasses(FrostlineError)}


def wrong_commands(text: str) -> list[str]:
    """Commands of Frostline that do not exist, or would not take an option."""
    commands = get_command(app).commands
    found = []
    for said in re.findall(r"frostline ([a-z][^`|;]*)", text.replace("\n", " ")):
        words = said.split()
        options = {option for each in getattr(commands.get(words[0]), "params", []) for option in each.opts}
        if words[0] not in commands or {word for word in words if word.startswith("--")} - options:
            found.append(said)
    return found


def test_every_command_exists(text: str) -> None:
    in_code = "\n".join(
        f"`{code}`" for code in re.findall(r"`([^`]*)`|^    (frostline .*)$", text, re.M) for code in code
    )
    assert wrong_commands(in_code) == []
    assert len(re.findall("frostline ", in_code)) > 15
    assert wrong_commands("`frostline mend MODEL`") and wrong_commands("`frostline verify --fix`")


KINDS = {"deploy": "Deployment", "job": "Job"}


def kubectl(text: str) -> list[str]:
    """Its commands, in order."""
    return re.findall(r"(?:`|^    )kubectl ([^`\n]*)", text, re.M)


def section(text: str, title: str) -> str:
    return text.split(f"## {title}")[1].split("\n## ")[0]


def nowhere(commands: list[str]) -> list[str]:
    """Commands about what no manifest has."""
    found = documents()
    names = {(one["kind"], one["metadata"]["name"]) for one in found}
    labels = {label for _, _, template in pods(found) for label in template["metadata"]["labels"].items()}
    wrong = []
    for command in commands:
        named = re.findall(r"\b(deploy|job)(?:ment)?[ /]([a-z]\w*)", command)
        there = all((KINDS[kind], name) in names for kind, name in named)
        there &= all(tuple(each.split("=")) in labels for each in re.findall(r"--selector=(\S+)", command))
        there &= all((REPOSITORY / each).is_dir() for each in re.findall(r"-k (\S+)", command))
        if not there:
            wrong.append(command)
    return wrong


def test_kubectl_is_told_of_what_the_manifests_have(text: str) -> None:
    assert nowhere(kubectl(text)) == []
    assert len(kubectl(text)) >= 9
    wrong = [
        "exec deploy/workers -- x",
        "delete job deployment",
        "delete pod --selector=app=raylet",
        "apply -k infra/kube",
    ]
    assert nowhere(wrong) == wrong


def untouched(commands: list[str]) -> list[str]:
    """Pods with secrets that go on with the old ones after these commands. A Job that is done reads none."""
    selectors = [tuple(each.split("=")) for each in re.findall(r"delete pod --selector=(\S+)", "\n".join(commands))]
    found = []
    for name, kind, template in pods(documents()):
        labels = template["metadata"]["labels"].items()
        begun_anew = (kind == "Deployment" and "rollout restart deployment" in commands) or {*selectors} & {*labels}
        if "secretKeyRef" in str(template) and kind != "Job" and not begun_anew:
            found.append(name)
    return found


def test_changed_credentials_reach_every_pod(text: str) -> None:
    commands = kubectl(section(text, "Change credentials"))
    assert untouched(commands) == []
    assert untouched(["rollout restart deployment"]) == ["frostline-head", "frostline-workers"]
    assert "worker" in untouched(["delete pod --selector=app=ray"])


def not_upgraded(commands: list[str]) -> list[str]:
    """What stays as it was, or keeps `apply` from its work."""
    applied = next(at for at, command in enumerate(commands) if command.startswith("apply"))
    before, after = commands[:applied], commands[applied:]
    jobs = [one["metadata"]["name"] for one in documents() if one["kind"] == "Job"]
    of_operator = untouched([*after, "rollout restart deployment"])  # Deployments are changed by `apply`
    return [name for name in jobs if f"delete job {name}" not in before] + of_operator


def test_an_upgrade_replaces_jobs_and_the_operators_pods(text: str) -> None:
    commands = kubectl(section(text, "Upgrade"))
    assert not_upgraded(commands) == []
    assert not_upgraded(["apply -k x", "delete job deployments"]) == [
        "deployments",
        "frostline-head",
        "frostline-workers",
    ]
    assert not_upgraded(["delete job deployments", "delete pod --selector=app=ray", "apply -k x"])


def test_every_alert_says_what_to_do(text: str) -> None:
    lines = section(text, "Alerts").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    assert {row[0] for row in rows[2:]} >= ALERTS
    assert all(len(row) == 4 and all(row) for row in rows)
