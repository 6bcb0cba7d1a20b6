"""The whole story for `status`, `overview` and the metrics: the store's, Prefect's, and who is at work."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.claiming import at_work
from flows.prefect_story import PrefectStory, prefect_story
from infra.errors import PlatformError
from training.made import Made, OutputReader
from training.served import served
from training.story import Story, story_of


class Told(BaseModel):
    """The contract of `frostline overview --json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    store: str
    story: Story
    at_work: list[dict[str, Any]]
    prefect: PrefectStory | None
    prefect_problem: str | None
    """Why nothing is told of Prefect; None where it was asked, or none is named."""

    @property
    def accelerator_seconds(self) -> float:
        return sum(work.accelerator_seconds for work in self.story.work)

    @property
    def accelerator_seconds_saved(self) -> float:
        """By units taken over, and by whole steps that Prefect knows to have been reused."""
        whole = sum(one.accelerator_seconds_saved for one in self.prefect.reused) if self.prefect else 0.0
        return whole + sum(one.accelerator_seconds_saved for one in self.story.work)

    @property
    def encoded(self) -> int:
        return sum(work.units_done for work in self.story.work if work.step == "featurize")

    @property
    def encodes_saved(self) -> int:
        return sum(work.units_saved for work in self.story.work if work.step == "featurize")


def tell(outputs: OutputReader) -> tuple[Told, list[Made]]:
    """The story, and the outputs that it was told from. Raises IntegrityError where the ledger, a notice or a verdict
    is damaged; a Prefect that does not answer is told, not raised."""
    made, damaged = outputs.read()
    problem = None
    try:
        found = prefect_story(made)
    except PlatformError as error:
        found, problem = None, str(error)
    told = Told(
        store=outputs.store.uri,
        story=story_of(made, served(outputs.store, made), damaged),
        at_work=at_work(outputs.store),
        prefect=found,
        prefect_problem=problem,
    )
    return told, made
