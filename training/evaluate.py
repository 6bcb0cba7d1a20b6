"""The `evaluate` step: the test split answered with the right and with swapped images, scored and shown."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dataset import Example, read_examples
from infra.digests import digest_json
from infra.disk import scratch_folder
from infra.errors import ConfigError, DataError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part
from infra.ray import run_units
from infra.record import git_commit, package_versions
from infra.workspace import Workspace
from training.answering import Answer, Answerer, Question, questions_of, swapped, units_of
from training.config import TrainConfig
from training.evaluation_config import EvaluationConfig
from training.gallery import gallery
from training.generation import Asked
from training.prediction_cache import FACT, earlier_texts, told
from training.report import REPORT_SCHEMA_VERSION, Report, report_json
from training.report_page import GalleryItem, render_report
from training.scoring import Scores, by_label, intervals, score, slice_values, slices

STEP = "evaluate"
VERSION = 3
TEXTS_PER_UNIT = 512


@dataclass(frozen=True)
class EvaluationInputs:
    """What is evaluated, on what."""

    model_name: str
    train: Manifest
    dataset: Manifest
    features: Manifest
    language_model_folder: Path


def evaluate_request(
    config: EvaluationConfig, name: str, train: Manifest, dataset: Manifest, features: Manifest
) -> OutputRequest:
    inputs = {
        "model_digest": train.identity["model_digest"],
        "test_digest": dataset.identity["test_digest"],
        "encoder_key": features.identity["encoder_key"],
    }
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
    control = swapped([example.image_id for example in examples], config.control_seed)
    questions = questions_of(examples, train_config, control)
    if not questions:
        raise DataError(
            f"the test split has {len(examples)} examples and none of a task that was trained; expected "
            f"{', '.join(sorted(train_config.objectives.prompts))}. Add such examples to the test split, or an "
            "objective for their task."
        )
    answers, answer_facts = _answer(questions, config, inputs, attempt, workspace)
    asked = {question.example_id for question in questions}
    examples = [example for example in examples if example.example_id in asked]
    predictions = {name: answer.prediction for name, answer in answers.items()}
    metrics, scores = score(examples, predictions)
    swapped_predictions = {name: answer.control_prediction for name, answer in answers.items()}
    control_metrics, control_scores = score(examples, swapped_predictions)
    classes, confusion = by_label(examples, predictions)
    report = Report(
        schema_version=REPORT_SCHEMA_VERSION,
        model_name=inputs.model_name,
        metrics=metrics,
        control=control_metrics,
        intervals=intervals(examples, scores),
        control_intervals=intervals(examples, control_scores),
        classes=classes,
        confusion=confusion,
        slices=slices(examples, scores, control_scores),
        num_examples=dict(sorted(Counter(example.task for example in examples).items())),
        dataset=inputs.dataset.facts["statistics"],
        curves=_curves(inputs.train, workspace),
        provenance=_provenance(inputs, attempt.request),
    )
    items = gallery(examples, answers, scores, inputs.dataset, workspace.cache, config)
    rows = _prediction_rows(examples, answers, control, (scores, control_scores))
    parts = _parts(report, items, rows, attempt)
    return Draft(
        parts=parts,
        identity={
            "evaluation_digest": digest_json([metrics, control_metrics, parts[-1].digest]),
            "model_digest": inputs.train.identity["model_digest"],
        },
        counts={"rows_out": len(rows)},
        facts={
            "metrics": metrics,
            "control": control_metrics,
            "intervals": {name: [found.low, found.high] for name, found in report.intervals.items()},
            **answer_facts,
        },
    )


def _parts(
    report: Report, items: Sequence[GalleryItem], rows: Sequence[Mapping[str, Any]], attempt: Attempt
) -> list[Part]:
    """report.json, report.html and, last, predictions.parquet."""
    with scratch_folder("evaluate") as folder:
        (folder / "report.json").write_text(report_json(report))
        (folder / "report.html").write_text(render_report(report, items))
        _write_predictions(rows, folder / "predictions.parquet")
        kinds = {"report.json": "report", "report.html": "report", "predictions.parquet": "predictions"}
        return [
            attempt.add_part(folder / file, kind, len(rows) if kind == "predictions" else 0, name=f"report/{file}")
            for file, kind in kinds.items()
        ]


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


def _answer(
    questions: Sequence[Question],
    config: EvaluationConfig,
    inputs: EvaluationInputs,
    attempt: Attempt,
    workspace: Workspace,
) -> tuple[dict[str, Answer], dict[str, Any]]:
    """Answers by example_id, and facts about them. Generated is only what no earlier evaluation of this model holds
    (where this one is not forced) and no earlier attempt noted."""
    asked = {one for question in questions for one in question.asked}
    train_config = TrainConfig.model_validate(inputs.train.facts["config"])
    texts: dict[Asked, str] = {}
    if not attempt.is_forced:
        texts = earlier_texts(asked, config.generation, train_config, attempt.request, workspace)
    num_reused = len(texts)
    units = units_of(asked - texts.keys(), TEXTS_PER_UNIT)
    waiting: dict[str, list[Asked]] = {}
    for name, unit in units.items():
        noted = attempt.noted(name)
        if noted is None:
            waiting[name] = unit
        else:
            texts |= zip(unit, noted["texts"], strict=True)
    progress = workspace.progress
    progress.start("evaluate", len(asked), "texts", done=len(texts))

    def keep(name: str, result: list[str]) -> None:
        attempt.note(name, {"texts": result})
        texts.update(zip(units[name], result, strict=True))
        progress.advance("evaluate", len(result))

    resources = workspace.profile.evaluate
    arguments = {
        "store_uri": attempt.store.uri,
        "cache_dir": str(workspace.cache.folder),
        "train": inputs.train.model_dump(mode="json"),
        "features": inputs.features.model_dump(mode="json"),
        "language_model_folder": str(inputs.language_model_folder),
        "options": {
            "threads": resources.threads_per_actor,
            "batch_size": resources.rows_per_batch,
            "generation": config.generation.model_dump(mode="json"),
        },
    }
    if waiting:
        run_units(Answerer, arguments, waiting, resources, keep)
    progress.finish("evaluate")
    answers = {question.example_id: Answer(*(texts[one] for one in question.asked)) for question in questions}
    num_texts = {"generated": len(asked) - num_reused, "reused": num_reused}
    return answers, {FACT: told(config.generation), "num_texts": num_texts}


def _curves(train: Manifest, workspace: Workspace) -> dict[str, Any]:
    (part,) = train.parts_of("history")
    found: dict[str, Any] = json.loads(workspace.cache.path("train", part).read_bytes())
    validation = train.facts["validation_curve"]
    return {**found, "val_loss": validation} if validation else found


def _provenance(inputs: EvaluationInputs, request: OutputRequest) -> dict[str, str]:
    versions = {f"{package} version": number for package, number in package_versions().items()}
    return {
        "evaluation fingerprint": request.fingerprint,
        "training fingerprint": inputs.train.fingerprint,
        "dataset fingerprint": inputs.dataset.fingerprint,
        **{name.replace("_", " "): digest for name, digest in {**inputs.train.inputs, **request.inputs}.items()},
        "git commit": git_commit(),
        **versions,
    }


def _prediction_rows(
    examples: Sequence[Example],
    answers: Mapping[str, Answer],
    control: Mapping[str, str],
    scores: tuple[Scores, Scores],
) -> list[dict[str, Any]]:
    return [
        {
            "example_id": example.example_id,
            "image_id": example.image_id,
            "task": example.task,
            "prompt": example.prompt,
            "references": list(example.targets),
            "prediction": answers[example.example_id].prediction,
            "control_prediction": answers[example.example_id].control_prediction,
            "control_image_id": control[example.image_id],
            "scores": sorted(scores[0][example.example_id].items()),
            "control_scores": sorted(scores[1][example.example_id].items()),
            "slices": sorted(slice_values(example).items()),
        }
        for example in examples
    ]


def _write_predictions(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_prep.schemas import predictions_schema

    pq.write_table(pa.Table.from_pylist(list(rows), predictions_schema()), path, compression="zstd")
