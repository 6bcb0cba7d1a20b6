"""What heads choose from, read off the train split: labels and the scale of numbers."""

from collections.abc import Sequence
from statistics import fmean, pstdev

from pydantic import BaseModel, ConfigDict

from data_prep.dataset import Example
from infra.errors import DataError
from training.objectives.config import ObjectivesConfig


class AnswerSpace(BaseModel):
    """Belongs to the trained parameters: without it a head's outputs have no names and no units."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    labels: tuple[str, ...] = ()
    """Of `classify` by a head, sorted."""
    number_means: tuple[float, ...] = ()
    number_deviations: tuple[float, ...] = ()
    """Standard deviations; 1 where all numbers are equal."""


def answer_space_of(examples: Sequence[Example], objectives: ObjectivesConfig) -> AnswerSpace:
    """Raises DataError where there are fewer than two labels, or where examples differ in their count of numbers."""
    labels: tuple[str, ...] = ()
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    if objectives.classify and objectives.classify.by == "head":
        labels = tuple(sorted({example.label for example in examples if example.task == "classify"}))
        if len(labels) < 2:
            raise DataError(
                f"the train split has {len(labels)} labels ({', '.join(labels) or 'none'}); expected at least 2 for "
                "the objective classify. Check the sources, or leave training.objectives.classify out."
            )
    if objectives.regress:
        numbers = [(example.example_id, example.numbers) for example in examples if example.task == "regress"]
        lengths = {len(values) for _, values in numbers}
        if len(lengths) != 1 or lengths == {0}:
            raise DataError(
                f"the regress examples of the train split have {sorted(lengths) or 'no'} numbers each; expected the "
                "same count, at least 1, in all. Check the sources, or leave training.objectives.regress out."
            )
        columns = list(zip(*(values for _, values in numbers), strict=True))
        means = tuple(fmean(column) for column in columns)
        deviations = tuple(pstdev(column) or 1.0 for column in columns)
    return AnswerSpace(labels=labels, number_means=means, number_deviations=deviations)
