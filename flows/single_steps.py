"""Each step as a flow of its own, for deployments. Steps before it are reused, or made first."""

from collections.abc import Sequence
from typing import Any

from prefect import Flow, flow
from prefect.client.schemas.objects import State

from flows.retrain import on_failure, open_and_run


def _up_to(step: str, description: str) -> Flow[..., dict[str, Any] | State[Any]]:
    """A flow with the parameters of `retrain` that ends with this step."""

    @flow(
        name=step,
        description=description,
        flow_run_name=step + "-{recipe}",
        persist_result=False,
        on_failure=[on_failure],
        on_crashed=[on_failure],
    )
    def run_step(
        recipe: str = "quickstart",
        profile: str = "laptop",
        assignments: Sequence[str] = (),
        store_uri: str | None = None,
    ) -> dict[str, Any] | State[Any]:
        return open_and_run(recipe, profile, assignments, store_uri, until=step)

    return run_step


ingest = _up_to("ingest", "Sources → Parquet.")
base = _up_to("base", "The recipe's own vision tower and language model.")
featurize = _up_to("featurize", "Images → patch features, each image once per tower.")
train = _up_to("train", "Features and texts → trained parameters.")
evaluate = _up_to("evaluate", "Test split → scores against the swapped images, and the report.")
register = _up_to("register", "The model → a version in MLflow, and the decision whether it serves.")
