"""infra/RUNBOOK.md speaks of what exists."""

import re
from collections.abc import Iterator
from importlib import import_module

import pytest
from deployed import REPOSITORY
from typer.main import get_command

from flows.cli import app
from infra.errors import FrostlineError

ALERTS = {
    "dead flow run", "claim waits", "store not writable", "disk full", "candidate refused", "rolled back",
    "waits for approval", "flow run failed", "drift",
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


def test_every_alert_says_what_to_do(text: str) -> None:
    section = text.split("## Alerts")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert {row[0] for row in rows[2:]} >= ALERTS
    assert all(len(row) == 4 and all(row) for row in rows)
