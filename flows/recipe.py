"""Recipes: what to train on what, complete. Where and with how much is a profile's matter."""

from collections.abc import Collection, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_prep.ingest_config import IngestConfig
from data_prep.pretrained import PretrainedRef
from data_prep.sources import PATH_FIELDS
from data_prep.tower import FeatureConfig
from infra.claims import Policy
from infra.errors import ConfigError
from infra.places import is_remote
from infra.yaml_config import parse, read_yaml, set_values
from training.base.config import BaseConfig
from training.config import TrainConfig
from training.evaluation_config import EvaluationConfig
from training.promotion_rule import PromotionRule
from training.retrain_rule import WatchRule


class Recipe(BaseModel):
    """One model, from its data to its gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Names the logs of its outputs; `plan` compares with the newest output of this name."""
    model_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The registered model in MLflow."""
    ingest: IngestConfig
    base: BaseConfig | None = None
    """Only where the recipe trains its own tower and language model first, as the quickstart does."""
    vision_tower: PretrainedRef
    language_model: PretrainedRef
    featurize: FeatureConfig = FeatureConfig()
    training: TrainConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    overlap: Policy = "queue"
    """What a retrain does that meets another one of the same model: `queue` waits for its end, `skip` leaves the work
    to it, `replace` has it end (with a checkpoint) and takes its place."""
    promotion: PromotionRule | None = None
    """Needed to register; a recipe that ends with its training has none."""
    watch: WatchRule = WatchRule()
    """When `frostline watch` and the deployment `watch/daily` call for a retrain."""

    @property
    def gate(self) -> PromotionRule:
        """Raises ConfigError where the recipe has none."""
        if self.promotion is None:
            raise ConfigError(
                f"recipe {self.name}: the key 'promotion' is missing; expected a rule, since a model is registered by "
                "one. Add it, or stop earlier with --until evaluate."
            )
        return self.promotion

    @model_validator(mode="after")
    def _base_where_named(self) -> "Recipe":
        for name in ("vision_tower", "language_model"):
            ref: PretrainedRef = getattr(self, name)
            if ref.base is not None and (self.base is None or ref.base != name):
                raise ValueError(f"{name}.base is {ref.base!r}; expected {name!r} and a `base` section")
        return self


def load_recipe(name_or_path: str, assignments: Iterable[str] = ()) -> Recipe:
    """A recipe by shipped name or by path, with `path.to.key=value` assignments applied.

    Relative paths inside it are taken from the recipe's own folder."""
    path = _find(name_or_path)
    values = set_values(read_yaml(path), assignments)
    return parse(Recipe, _absolute(values, path.absolute().parent), where=f"recipe {path}")


def split_assignments(assignments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(assignments of the recipe, assignments of the profile without their `profile.`)."""
    prefix = "profile."
    recipe = [assignment for assignment in assignments if not assignment.startswith(prefix)]
    return recipe, [a.removeprefix(prefix) for a in assignments if a.startswith(prefix)]


def shipped_recipes() -> list[str]:
    found = (files("flows") / "recipes").iterdir()
    return sorted(p.name.removesuffix(".yaml") for p in found if p.name.endswith(".yaml"))


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = Path(str(files("flows") / "recipes" / f"{name_or_path}.yaml"))
    if path.suffix in (".yaml", ".yml") or not shipped.is_file():
        raise ConfigError(
            f"recipe {name_or_path!r} was not found; expected the path of a YAML file or one of "
            f"{', '.join(shipped_recipes())}."
        )
    return shipped


def absolute_paths(section: Any, keys: Collection[str], folder: Path) -> Any:
    """The same section with local paths under these keys taken from `folder`. URIs are left as they are."""
    if not isinstance(section, dict):
        return section

    def is_local(key: str, value: Any) -> bool:
        return key in keys and isinstance(value, str) and not is_remote(value)

    return {key: str(folder / value) if is_local(key, value) else value for key, value in section.items()}


def _absolute(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same mapping with the local paths of sources and model folders made absolute. URIs are left as they are."""
    fixed = dict(values)
    ingest = values.get("ingest")
    if isinstance(ingest, dict) and isinstance(ingest.get("sources"), list):
        fixed["ingest"] = {
            **ingest,
            "sources": [absolute_paths(source, PATH_FIELDS, folder) for source in ingest["sources"]],
        }
    for name in ("vision_tower", "language_model"):
        if name in values:
            fixed[name] = absolute_paths(values[name], {"folder"}, folder)
    return fixed
