"""The `register` step as the flow does it, against a real MLflow on SQLite."""

from typing import Any

from infra import log
from infra.outputs import Manifest, ensure_output, manifest_key
from infra.tracking import Registry
from infra.workspace import Workspace
from training.promotion_rule import ControlMargin, PromotionRule
from training.register import RegisterNames, Registration, champion_of, register, register_request

RULE = PromotionRule(
    primary_metric="vqa_accuracy",
    minimum_gain=0.02,
    control_margins={"vqa_accuracy": ControlMargin(minimum_difference=0.35)},
)


class Places:
    def __init__(self, workspace: Workspace, registry: Registry, model_name: str) -> None:
        self.workspace, self.registry, self.model_name = workspace, registry, model_name

    def register(self, world: Any, rule: PromotionRule = RULE) -> tuple[Manifest, bool]:
        """What the flow does."""
        store = self.workspace.store
        request = register_request(
            rule, RegisterNames("tiny", self.model_name, "here"), world.parts.train, world.evaluation, store
        )
        champion = champion_of(request, store)
        known = champion and self.evaluations[champion.model_digest]
        registration = Registration(rule, self.model_name, world.parts, world.evaluation, known)
        self.evaluations[world.parts.train.identity["model_digest"]] = world.evaluation
        return ensure_output(
            store, request, lambda attempt: register(registration, attempt, self.workspace), resources={}
        )

    def decided(self, world: Any, rule: PromotionRule = RULE) -> Manifest:
        """The decision about a model whose training is in the store, as a recipe's is."""
        for made in (world.parts.train, world.evaluation):
            world.store.create(manifest_key(made.step, made.fingerprint), made.model_dump_json().encode())
            log.append(world.store, made.step, made.identity["model_digest"], {"fingerprint": made.fingerprint})
        return self.register(world, rule)[0]

    @property
    def evaluations(self) -> dict[str, Manifest]:
        """By model digest, of all that were registered here."""
        found: dict[str, Manifest] = self.__dict__.setdefault("_evaluations", {})
        return found

    @property
    def aliases(self) -> dict[str, str]:
        return self.registry.aliases(self.model_name)
