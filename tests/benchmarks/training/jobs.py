"""The jobs that are measured: random language models of a stated size, real texts, features of noise, a local store."""

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from plan import SMALL_TOKENS, Case, Plan

IMAGE_NAMES = "images.json"
"""{image id: the image's name in its source}"""
Texts = list[tuple[str, str, list[str]]]
"""(image, prompt, targets), one per image."""


def job_of(case: Case, plan: Plan) -> Path:
    """The file of a case's job; what it names lies beside it. Made once."""
    folder = plan.root / _folder_name(case)
    job = folder / "job.json"
    if not job.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write_job(case, plan, folder)
    return job


def _folder_name(case: Case) -> str:
    from infra.digests import digest_json

    told = {name: value for name, value in vars(case).items() if name != "trainer"}
    return f"case-{digest_json(told)[:12]}"


def _write_job(case: Case, plan: Plan, folder: Path) -> None:
    import numpy as np
    import pyarrow as pa
    from stored_parts import example_row, made_by, store_features, store_shard

    from data_prep.schemas import examples_schema
    from infra.digests import digest_bytes
    from infra.settings import TrainResources
    from infra.store import LocalStore
    from training.config import TrainConfig
    from training.job import TrainJob

    store = LocalStore(folder / "store")
    texts = texts_of(case, plan.shared_data)
    ids = [digest_bytes(image.encode()) for image, _, _ in texts]
    task = "vqa" if case.texts == "answers" else "caption"
    rows = [
        example_row(image_id, task, prompt, targets) for image_id, (_, prompt, targets) in zip(ids, texts, strict=True)
    ]
    shard = store_shard(store, folder, examples=pa.Table.from_pylist(rows, schema=examples_schema()))
    shape = (len(ids), case.num_patches, case.vision_width)
    features_NPV = features_of(case, plan, [image for image, _, _ in texts], shape)
    parts = store_features(store, ids, features_NPV.astype(np.float16))
    facts = {"num_patches": case.num_patches, "vision_width": case.vision_width, "views": ["original"]}
    job = TrainJob(
        config=TrainConfig.model_validate(
            {
                "mapper": case.mapper,
                "objectives": {task: {}},
                "global_batch_images": case.global_batch_images,
                "epochs": 1,
                # Constant, as the other side has it.
                "learning_rate": 1e-3,
                "warmup_fraction": 0.0,
                "min_learning_rate_fraction": 1.0,
                "max_targets_per_image": case.targets_per_image,
                "validation_images": 0,
            }
        ),
        resources=TrainResources.model_validate(
            {"num_ranks": 1, "threads_per_rank": 2, "micro_batch_tokens": case.micro_batch_tokens}
        ),
        fingerprint="f" * 64,
        dataset=made_by("ingest", shard, {"dataset_digest": "d" * 64}),
        features=made_by("featurize", parts, {"encoder_key": "e" * 64}, facts),
        language_model_dir=language_model_of(case, plan),
        store_uri=store.uri,
        cache_dir=folder / "cache",
    )
    names = {image_id: image for image_id, (image, _, _) in zip(ids, texts, strict=True)}
    (folder / IMAGE_NAMES).write_text(json.dumps(names))
    (folder / "job.json").write_text(job.model_dump_json())


def texts_of(case: Case, shared_data: Path) -> Texts:
    """As many images as the case trains, each with exactly so many targets."""
    reader = {"captions": _captions, "answers": _answers, "photos": _photos}[case.texts]
    found = [(image, prompt, targets[: case.targets_per_image]) for image, prompt, targets in reader(shared_data)]
    found = [each for each in found if len(each[2]) == case.targets_per_image]
    assert len(found) >= case.num_images, f"{case.name}: {len(found)} images; expected {case.num_images}"
    return found[: case.num_images]


def _captions(shared_data: Path) -> Texts:
    lines = (shared_data / "text" / "coco_val2017_captions.jsonl").read_text().splitlines()
    return [(str(row["coco_id"]), "", row["captions"]) for row in map(json.loads, lines)]


def _answers(shared_data: Path) -> Texts:
    """Each question of VQAv2 as an image of its own."""
    folder = shared_data / "coco_mini"
    questions = json.loads((folder / "vqa_questions.json").read_text())["questions"]
    annotations = json.loads((folder / "vqa_annotations.json").read_text())["annotations"]
    answers = {row["question_id"]: [answer["answer"] for answer in row["answers"]] for row in annotations}
    return [(f"q{row['question_id']}", row["question"], answers[row["question_id"]]) for row in questions]


def _photos(shared_data: Path) -> Texts:
    found = json.loads((shared_data / "coco_mini" / "captions.json").read_text())
    names = {image["id"]: image["file_name"] for image in found["images"]}
    captions: dict[str, list[str]] = defaultdict(list)
    for row in found["annotations"]:
        captions[names[row["image_id"]]].append(row["caption"])
    return [(name, "", told) for name, told in sorted(captions.items())]


def features_of(case: Case, plan: Plan, images: list[str], shape: tuple[int, int, int]) -> Any:
    """float16 or float32[N, P, V]: of the photos the tower's, else noise, since no figure depends on what they hold."""
    import numpy as np

    if case.texts != "photos":
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    from data_prep.tower import FeatureConfig, Tower

    tower = Tower(plan.mobilenet, FeatureConfig(), 16, "cpu")
    return tower.encode([(plan.shared_data / "coco_mini" / "images" / name).read_bytes() for name in images])


def language_model_of(case: Case, plan: Plan) -> Path:
    """A GPT-2 of the case's size with random weights, and its tokenizer."""
    sizes = case.language_model
    folder = plan.root / f"lm-{sizes['n_layer']}-{sizes['n_embd']}-{case.vocabulary}"
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = _tokenizer(case, plan.shared_data)
    eos = tokenizer.eos_token_id
    config = GPT2Config(**sizes, vocab_size=len(tokenizer), n_positions=1024, bos_token_id=eos, eos_token_id=eos)
    torch.manual_seed(0)
    tokenizer.save_pretrained(folder)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def _tokenizer(case: Case, shared_data: Path) -> Any:
    if case.vocabulary == "own":
        from training.base.tokenizer import train_tokenizer

        return train_tokenizer((text for _, _, targets in _captions(shared_data) for text in targets), SMALL_TOKENS)
    from transformers import GPT2Tokenizer

    files = shared_data / "weights" / "gpt2_bpe"
    return GPT2Tokenizer(vocab=str(files / "vocab.json"), merges=str(files / "merges.txt"))
