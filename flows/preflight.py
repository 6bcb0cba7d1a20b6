"""What can be found wrong before an engine starts: models that cannot be reached or do not fit together."""

from data_prep import pretrained
from flows.plan import Plan
from flows.recipe import Recipe
from infra.errors import ConfigError
from infra.workspace import Workspace
from training.asking import kinds_of
from training.promotion_rule import METRIC_TASKS


def check_objectives_can_be_scored(recipe: Recipe, until: str | None) -> None:
    """Raises ConfigError where evaluate would find nothing to ask, before a training is paid for."""
    tasks = kinds_of(recipe.training)
    if until in (None, "evaluate", "register") and not tasks:
        raise ConfigError(
            f"regime {recipe.training.regime.kind} with objectives {', '.join(recipe.training.objectives.names)} gives "
            "no answers that evaluate could score; expected caption, vqa, classify or regress among the objectives, "
            "behind a mapper. Add one, or stop after the training with --until train."
        )
    if until in (None, "register"):
        for metric in recipe.gate.metrics:
            if METRIC_TASKS.get(metric, "caption") not in tasks:
                raise ConfigError(
                    f"promotion asks for {metric}, which is a metric of {METRIC_TASKS.get(metric, 'caption')}, and "
                    f"training.objectives has {', '.join(sorted(tasks))}; expected metrics of what is trained. Name "
                    "another metric, or train that objective too."
                )


def check_models(recipe: Recipe, plan: Plan, workspace: Workspace) -> None:
    """Fetch the models that the steps to run need. Raises ConfigError or DataError as `pretrained.resolve` does,
    and where the language model's vocabulary is not its tokenizer's."""
    to_run = {step.name for step in plan.steps if step.action != "reuse"}
    if "featurize" in to_run and recipe.vision_tower.base is None:
        pretrained.resolve(recipe.vision_tower, None, workspace.cache)
    if "train" in to_run and recipe.language_model.base is None:
        from training.language_model import check_vocabulary

        check_vocabulary(pretrained.resolve(recipe.language_model, None, workspace.cache))
