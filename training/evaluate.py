"""The `evaluate` step: the test split answered with its images, with swapped ones and with none, scored and shown."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dataset import Example, read_examples
from data_prep.pins import Pin
from infra.digests import digest_json
from infra.disk import scratch_folder
from infra.errors import ConfigError, DataError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part
from infra.ray_pool import run_units
from infra.record import git_commit, package_versions
from infra.workspace import Workspace
from training.answering import Answerer
from training.asking import (
    Asked,
    Question,
    Reply,
    Worse,
    blind_images,
    kinds_of,
    questions_of,
    swapped,
    units_of,
)
from training.confidence_scores import calibrations
from training.config import TrainConfig
from training.controls import all_scored, robustness
from training.evaluation_config import EvaluationConfig
from training.gallery import chosen, with_pictures
from training.objectives.answer_space import AnswerSpace
from training.predictions import prediction_rows, write_predictions
from training.replies import FACT, KIND, earlier_replies, told, write_replies
from training.report import REPORT_SCHEMA_VERSION, Report, report_json
from training.report_page import GalleryItem, render_report
from training.scoring import by_label, intervals, slices
from training.shots import FewShot, few_shot_of

STEP = "evaluate"
VERSION = 3
REPLIES_PER_UNIT = 512


@dataclass(frozen=True)
class EvaluationInputs:
    """What is evaluated, on what."""

    model_name: str
    train: Manifest
    dataset: Manifest
    features: Manifest
    vision_tower: Pin
    language_model_folder: Path


def evaluate_request(
    config: EvaluationConfig, name: str, train: Manifest, dataset: Manifest, features: Manifest
) -> OutputRequest:
    inputs = {
        "model_digest": train.identity["model_digest"],
        "test_digest": dataset.identity["test_digest"],
        "encoder_key": features.identity["encoder_key"],
    }
    if config.few_shot is not None:
        inputs["dataset_digest"] = dataset.identity["dataset_digest"]  # shots are of its train split
    return OutputRequest(
        STEP, VERSION, name, config.model_dump(mode="json"), inputs, also_logged_as=inputs["model_digest"]
    )


def evaluate(config: EvaluationConfig, inputs: EvaluationInputs, attempt: Attempt, workspace: Workspace) -> Draft:
    """Raises DataError where the test split has nothing the model was trained to answer."""
    train_config = TrainConfig.model_validate(inputs.train.facts["config"])
    if train_config.regime.kind == "lit":
        raise ConfigError(
            "the regime of this training is lit, which answers no prompts; expected a model that generates text. "
            "Compare images and texts with training.lit.zero_shot."
        )
    examples = _test_examples(config, inputs, workspace)
    questions, options = _questions(examples, train_config, config, inputs, workspace)
    replies, facts = _replies(questions, options, config, inputs, attempt, workspace)
    asked = {question.example_id for question in questions}
    examples = [example for example in examples if example.example_id in asked]
    space = AnswerSpace.model_validate(inputs.train.facts["answer_space"])
    found = all_scored(examples, questions, replies, space)
    own, swap, blind = found
    names = [each.name for each in config.corruptions]
    own_replies = {question.example_id: replies[question.own] for question in questions}
    classes, confusion = by_label(examples, own_replies, space)
    report = Report(
        schema_version=REPORT_SCHEMA_VERSION,
        model_name=inputs.model_name,
        metrics=own.metrics,
        control=swap.metrics,
        blind=blind.metrics,
        intervals=intervals(examples, own.scores),
        control_intervals=intervals(examples, swap.scores),
        classes=classes,
        confusion=confusion,
        calibration=calibrations(examples, own_replies, own.scores),
        robustness=robustness(examples, questions, replies, names, space),
        slices=slices(examples, own.scores, swap.scores),
        num_examples=dict(sorted(Counter(example.task for example in examples).items())),
        dataset=inputs.dataset.facts["statistics"],
        curves=_curves(inputs.train, workspace),
        provenance=_provenance(inputs, attempt.request, config),
    )
    rows = prediction_rows(examples, questions, replies, found)
    items = with_pictures(chosen(rows, config), inputs.dataset, workspace.cache)
    parts = _parts(report, items, rows, replies, attempt)
    predictions = next(part for part in parts if part.kind == "predictions")
    return Draft(
        parts=parts,
        identity={
            "evaluation_digest": digest_json([own.metrics, swap.metrics, blind.metrics, predictions.digest]),
            "model_digest": inputs.train.identity["model_digest"],
        },
        counts={"rows_out": len(rows)},
        facts=_facts(report) | facts,
    )


def _questions(
    examples: Sequence[Example],
    train_config: TrainConfig,
    config: EvaluationConfig,
    inputs: EvaluationInputs,
    workspace: Workspace,
) -> tuple[list[Question], dict[str, Any]]:
    """About the examples whose task was trained; and what stands behind the ids in them, for who answers."""
    control = swapped([example.image_id for example in examples], config.control_seed)
    worse = Worse(frozenset(sorted(control)[: config.max_corrupted_images]), config.corruptions)
    few_shot = FewShot()
    if config.few_shot is not None:
        shown = read_examples(inputs.dataset, workspace.cache, ["train"])
        few_shot = few_shot_of(config.few_shot, [(one.image_id, one.task) for one in examples], shown, train_config)
    questions = questions_of(examples, train_config, control, worse, few_shot.digests)
    if not questions:
        raise DataError(
            f"the test split has {len(examples)} examples and none of a task that was trained; expected "
            f"{', '.join(sorted(kinds_of(train_config)))}. Add such examples to the test split, or an "
            "objective for their task."
        )
    if few_shot.shots:
        from training.few_shot import check_positions

        asked = {one for question in questions for one in question.asked() if one.shots}
        check_positions(asked, few_shot.shots, train_config, inputs.language_model_folder, config.max_new_tokens)
    return questions, {"blind_images": blind_images(control), "shots": few_shot.shots}


def _facts(report: Report) -> dict[str, Any]:
    """What is told without opening the report."""
    return {
        "metrics": report.metrics,
        "control": report.control,
        "blind": report.blind,
        "robustness": {name: found.metrics for name, found in report.robustness.items()},
        "intervals": {name: [found.low, found.high] for name, found in report.intervals.items()},
    }


def _parts(
    report: Report,
    items: Sequence[GalleryItem],
    rows: Sequence[Mapping[str, Any]],
    replies: Mapping[Asked, Reply],
    attempt: Attempt,
) -> list[Part]:
    with scratch_folder("evaluate") as folder:
        (folder / "report.json").write_text(report_json(report))
        (folder / "report.html").write_text(render_report(report, items))
        write_predictions(rows, folder / "predictions.parquet")
        write_replies(replies, folder / "replies.parquet")
        files = [
            ("report.json", "report", 0),
            ("report.html", "report", 0),
            ("predictions.parquet", "predictions", len(rows)),
            ("replies.parquet", KIND, len(replies)),
        ]
        return [attempt.add_part(folder / file, kind, count, name=f"report/{file}") for file, kind, count in files]


def _test_examples(config: EvaluationConfig, inputs: EvaluationInputs, workspace: Workspace) -> list[Example]:
    examples = read_examples(inputs.dataset, workspace.cache, ["test"])
    if config.max_test_images is not None:
        chosen = set(sorted({example.image_id for example in examples})[: config.max_test_images])
        examples = [example for example in examples if example.image_id in chosen]
    if not examples:
        raise DataError(
            "the test split is empty; expected at least 2 images. Give a source `split: test`, or raise "
            "ingest.split_fractions.test."
        )
    return examples


def _replies(
    questions: Sequence[Question],
    options: Mapping[str, Any],
    config: EvaluationConfig,
    inputs: EvaluationInputs,
    attempt: Attempt,
    workspace: Workspace,
) -> tuple[dict[Asked, Reply], dict[str, Any]]:
    """To all that is asked, and facts about them. Asked is only what no earlier evaluation of this model holds (where
    this one is not forced) and no earlier attempt noted. `options` say what stands behind ids of what is asked."""
    asked = {one for question in questions for one in question.asked()}
    replies: dict[Asked, Reply] = {}
    if not attempt.is_forced:
        replies = earlier_replies(asked, config.generation, attempt.request, workspace)
    num_reused = len(replies)
    units = units_of(asked - replies.keys(), REPLIES_PER_UNIT)
    waiting: dict[str, list[Asked]] = {}
    for name, unit in units.items():
        noted = attempt.noted(name)
        if noted is None:
            waiting[name] = unit
        else:
            replies |= zip(unit, map(Reply.of, noted["replies"]), strict=True)
    progress = workspace.progress
    progress.start("evaluate", len(asked), "replies", done=len(replies))

    def keep(name: str, result: list[Reply]) -> None:
        attempt.note(name, {"replies": result})
        replies.update(zip(units[name], result, strict=True))
        progress.advance("evaluate", len(result))

    resources = workspace.profile.evaluate
    arguments = {
        "store_uri": attempt.store.uri,
        "cache_dir": str(workspace.cache.folder),
        "outputs": {
            name: output.model_dump(mode="json")
            for name, output in (("train", inputs.train), ("features", inputs.features), ("dataset", inputs.dataset))
        },
        "language_model_folder": str(inputs.language_model_folder),
        "vision_tower": inputs.vision_tower.model_dump(mode="json"),
        "options": {
            "threads": resources.threads_per_actor,
            "batch_size": resources.rows_per_batch,
            **options,
            "generation": config.generation.model_dump(mode="json"),
        },
    }
    if waiting:
        run_units(Answerer, arguments, waiting, resources, keep)
    progress.finish("evaluate")
    num_replies = {"asked": len(asked) - num_reused, "reused": num_reused}
    return replies, {FACT: told(config.generation), "num_replies": num_replies}


def _curves(train: Manifest, workspace: Workspace) -> dict[str, Any]:
    (part,) = train.parts_of("history")
    found: dict[str, Any] = json.loads(workspace.cache.path(train.step, part).read_bytes())
    validation = train.facts["validation_curve"]
    return {**found, "val_loss": validation} if validation else found


def _provenance(inputs: EvaluationInputs, request: OutputRequest, config: EvaluationConfig) -> dict[str, str]:
    versions = {f"{package} version": number for package, number in package_versions().items()}
    return {
        "evaluation fingerprint": request.fingerprint,
        "training fingerprint": inputs.train.fingerprint,
        "dataset fingerprint": inputs.dataset.fingerprint,
        **{name.replace("_", " "): digest for name, digest in {**inputs.train.inputs, **request.inputs}.items()},
        **({"shots before each question": str(config.few_shot.examples)} if config.few_shot else {}),
        "git commit": git_commit(),
        **versions,
    }
