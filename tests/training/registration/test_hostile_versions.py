"""What somebody who may write to MLflow plants in a version, against every command that reads one: nothing of it runs.

Version 2 is altered where it lies. Version 3 is the attacker's own: another folder, and version 2's tags with digests
that fit it. The payload of every attack creates a file."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attacks import ALL, ON_VERSIONS, Attack, Target
from forge import Forge
from registered_model import Model

from infra.errors import ConfigError, IntegrityError
from infra.outputs import Attempt
from infra.tracking import PACKAGE_PATH, ModelVersion, listing_of
from training.candidate import FILES_TAG
from training.ledger import history
from training.package import CARD, README, SCRIPT, TRAINABLES
from training.predictor import PACKAGE_DIGEST_TAG
from training.promotion_rule import ControlMargin, PromotionRule
from training.register import RegisterNames, Registration, register, register_request

pytestmark = pytest.mark.slow

RULE = PromotionRule(
    primary_metric="vqa_accuracy", control_margins={"vqa_accuracy": ControlMargin(minimum_difference=0.35)}
)


def against(attacks: list[Attack]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("attack", attacks, indirect=True, ids=lambda attack: attack.__name__)


class Registered:
    """Versions 1, which serves, 2, which served before, and 3."""

    def __init__(self, model: Model, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.registry, self.name = model.place.registry, model.place.model_name
        model.add()
        self.altered = model.add()
        model.promote("2"), model.promote("1")
        self.attackers_folder = folder / "attackers" / "version"
        shutil.copytree(model.file(self.altered, ""), self.attackers_folder)
        self.attackers = self.register_folder(self.name)
        self.image = folder / "image.png"
        self.image.write_bytes(model.world.images[0])
        self.language_model = model.world.parts.language_model.folder

    def register_folder(self, name: str) -> ModelVersion:
        """The attacker's folder under the tags of version 2."""
        client = self.registry._client
        self.registry._ensure_model(name)
        made = client.create_model_version(
            name, self.attackers_folder.as_uri(), self.altered.run_id, tags=dict(self.altered.tags)
        )
        return self.registry.version(name, str(made.version))

    def fit_tags(self) -> None:
        """Of version 3 to its files."""
        card = json.loads((self.attackers_folder / PACKAGE_PATH / CARD).read_text())
        fitting = {PACKAGE_DIGEST_TAG: card["digest"], FILES_TAG: listing_of(self.attackers_folder)}
        for tag, value in fitting.items():
            self.registry._client.set_model_version_tag(self.name, "3", tag, value)

    def run(self, forge: Forge, arguments: list[str]) -> tuple[int, str, str]:
        """(exit code, output, error) of the command, which has an empty cache."""
        told, cache = self.folder / "told", self.folder / "cache"
        for path in self.folder.glob("told*"):
            path.unlink()
        shutil.rmtree(cache, ignore_errors=True)
        assert forge.run("command", str(told), *arguments, FROSTLINE_CACHE_DIR=str(cache), **self.environment) == 0
        code, output, error = json.loads(told.read_text())
        return code, output, error

    @property
    def environment(self) -> dict[str, str]:
        return {
            "FROSTLINE_VAR_DIR": str(self.model.workspace.settings.var_dir),
            "MLFLOW_TRACKING_URI": self.registry.uri,
        }


@pytest.fixture(scope="module")
def registered(lasting_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    return Registered(lasting_model, tmp_path_factory.mktemp("attack"))


@pytest.fixture(scope="module")
def forge(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    package = registered.model.file(registered.altered, PACKAGE_PATH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("huggingface")))  # remote code that is trusted goes there
        with Forge("command_program", str(package), str(registered.image), str(registered.folder / "warm")) as found:
            yield found


def uri(registered: Registered, version: str) -> str:
    return f"models:/{registered.name}/{version}"


COMMANDS: dict[str, Callable[[Registered, str], list[str]]] = {
    "caption": lambda told, version: ["caption", uri(told, version), str(told.image), "--json"],
    "ask": lambda told, version: ["ask", uri(told, version), str(told.image), "how many?", "--json"],
    "export": lambda told, version: ["export", uri(told, version), str(told.folder / "exported"), "--json"],
    "compare": lambda told, version: ["compare", told.name, "1", version],
    "history": lambda told, _: ["history", told.name],
}


@pytest.fixture(scope="module")
def genuine(registered: Registered, forge: Forge) -> dict[str, str]:
    """Of each command that changes nothing, what it prints about version 2 before anybody altered it."""
    return {name: output(registered, forge, command(registered, "2")) for name, command in COMMANDS.items()}


def output(registered: Registered, forge: Forge, arguments: list[str]) -> str:
    code, printed, error = registered.run(forge, arguments)
    assert code == 0, error
    shutil.rmtree(registered.folder / "exported", ignore_errors=True)
    return printed


@pytest.fixture(scope="module")
def attack(registered: Registered, genuine: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Attack]:
    """Planted in versions 2 and 3, and taken away at the end."""
    folders = [registered.model.file(registered.altered, ""), registered.attackers_folder, registered.language_model]
    for number, folder in enumerate(folders):
        shutil.copytree(folder, registered.folder / "whole" / str(number))
    code = f"open({str(mark(registered))!r}, 'w').close()\n"
    for folder in folders[:2]:
        request.param(Target(folder, registered.language_model, code))
    registered.fit_tags()
    yield request.param
    for number, folder in enumerate(folders):
        shutil.rmtree(folder)
        (registered.folder / "whole" / str(number)).rename(folder)
    registered.fit_tags()


def mark(registered: Registered) -> Path:
    return registered.folder / "payload-ran"


@pytest.fixture
def nothing_runs(registered: Registered) -> Iterator[None]:
    assert not mark(registered).exists()
    yield
    ran = mark(registered).exists()
    mark(registered).unlink(missing_ok=True)
    assert not ran, "the payload ran"


@against(ALL)
def test_the_attack_works_on_who_trusts_the_version(registered: Registered, forge: Forge, attack: Attack) -> None:
    if attack.__name__.startswith("remote_code"):
        own = registered.attackers_folder / "language_model"
        forge.run("load_trusting", str(own if own.exists() else registered.language_model))
    else:
        forge.run("load_with_mlflow", str(registered.model.file(registered.altered, "")), **registered.environment)
    assert mark(registered).exists()
    mark(registered).unlink()


@pytest.mark.parametrize("version", ["2", "3"])
@pytest.mark.parametrize("name", COMMANDS)
@against(ALL)
@pytest.mark.usefixtures("nothing_runs", "attack")
def test_a_command_that_reads_refuses_or_reads_what_is_genuine(
    genuine: dict[str, str], registered: Registered, forge: Forge, name: str, version: str
) -> None:
    code, printed, error = registered.run(forge, COMMANDS[name](registered, version))
    exported = registered.folder / "exported"
    if code == 0:
        assert printed.replace(f"/{version}", "/2").replace("version 3", "version 2") == genuine[name]
        assert not exported.exists() or {path.name for path in exported.iterdir()} == {TRAINABLES, CARD, SCRIPT, README}
    else:
        assert_refused(code, error)
        assert not exported.exists()
    shutil.rmtree(exported, ignore_errors=True)


def assert_refused(code: int, error: str) -> None:
    assert code in (ConfigError.exit_code, IntegrityError.exit_code)
    (sentence,) = error.strip().splitlines()
    assert sentence.startswith("frostline: ") and sentence.endswith(".")


@pytest.mark.parametrize("name", ["promote 2", "promote 3", "rollback", "rollback, after its alias was moved"])
@against(ON_VERSIONS)
@pytest.mark.usefixtures("nothing_runs", "attack")
def test_a_command_that_changes_who_serves_refuses(registered: Registered, forge: Forge, name: str) -> None:
    command, *version = name.partition(",")[0].split()
    before = history(registered.model.place.store, registered.name)
    if name.endswith("moved"):
        registered.model.move("2")
    forced = ["--force"] if version else []
    code, _, error = registered.run(forge, [command, registered.name, *version, *forced])
    registered.model.move("1")
    assert code == IntegrityError.exit_code
    assert_refused(code, error)
    assert history(registered.model.place.store, registered.name) == before


@against(ALL)
@pytest.mark.usefixtures("attack", "nothing_runs")
def test_a_registration_that_finds_a_planted_version_in_its_place_is_refused(
    registered: Registered, request: pytest.FixtureRequest
) -> None:
    """It has the digest and all tags of the version that the registration would have made."""
    model, name = registered.model, f"{registered.name}-{request.node.callspec.id.replace('_', '-')}"
    registered.register_folder(name)
    trained = model.added[1]
    wanted = register_request(
        RULE, RegisterNames("tiny", name, "here"), trained.parts.train, trained.evaluation, model.place.store
    )
    attempt = Attempt(model.place.store, wanted)
    with pytest.raises(IntegrityError):
        register(Registration(RULE, name, trained.parts, trained.evaluation, None), attempt, model.workspace)
    assert (history(model.place.store, name), registered.registry.aliases(name)) == ([], {})
