"""A loaded package that answers batches: each answer is the one it would be alone. Without servers."""

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_language_model import save_language_model
from tiny_towers import save_tower
from transformers import ViTImageProcessorPil

from data_prep.pins import pin
from data_prep.pretrained import PretrainedRef
from data_prep.tower import FeatureConfig
from infra.errors import ConfigError
from infra.outputs import Draft, OutputRequest, ensure_output
from infra.part_cache import PartCache
from infra.store import LocalStore
from training.asking import Asked
from training.config import TrainConfig
from training.generation import GenerationConfig
from training.language_model import load_language_model
from training.objectives.answer_space import AnswerSpace
from training.package import ModelCard, write_package
from training.predictor import Predictor
from training.prefix_model import build_prefix_model, trainable_state
from training.serving.engine import Engine
from training.serving.loading import VersionPlace, check_index
from training.serving.occlusion import CELLS_A_SIDE, occlude
from training.serving.work import Work

LABELS = ("cat", "dog", "zebra")
CONFIG = {
    "mapper": {"kind": "mlp", "prefix_tokens": 3, "width": 16},
    "objectives": {"caption": {"prompt": "caption :"}, "classify": {"by": "head", "prompt": "which {prompt}:"}},
    "global_batch_images": 4,
    "epochs": 1,
    "learning_rate": 0.1,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Captions, and labels by a head, from random parameters that are heard."""
    root = tmp_path_factory.mktemp("engine")
    save_tower("vit", root / "tower")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / "tower")
    save_language_model(root / "lm")
    cache = PartCache(LocalStore(root / "store"), root / "cache")
    config, space = TrainConfig.model_validate(CONFIG), AnswerSpace(labels=LABELS)
    model = build_prefix_model(config, load_language_model(root / "lm", torch.float32), (16, 16), space)
    for parameter in model.heads.parameters():  # heads start at zero
        torch.nn.init.normal_(parameter)
    save_file({name: value * 4 for name, value in trainable_state(model).items()}, root / "weights")
    card = ModelCard(
        model_name="engine",
        model_digest="e" * 64,
        training=config,
        features=FeatureConfig(),
        generation=GenerationConfig(max_new_tokens=6),
        num_patches=16,
        vision_width=16,
        answer_space=space,
        vision_tower=pin(PretrainedRef(folder=root / "tower"), None, cache),
        language_model=pin(PretrainedRef(folder=root / "lm"), None, cache),
    )
    package = write_package(root / "package", card, root / "weights")
    return Engine(Predictor.load(package.folder, cache.folder, threads=1), "7")


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (40, 30), random.Random(seed).randbytes(40 * 30 * 3)).save(buffer, "PNG")
    return buffer.getvalue()


CAPTION, LABEL = (("caption", ""),), (("classify", "digit"),)
MIXED = [
    Work(picture(0), CAPTION),
    Work(picture(1), LABEL, labels=LABELS),
    Work(picture(0), CAPTION, labels=("a red seven", "a blue three")),
    Work(picture(2), CAPTION),
]


def test_requests_of_all_kinds_are_answered_together_as_they_are_alone(engine: Engine) -> None:
    together = engine.tell(MIXED)
    for work, told in zip(MIXED, together, strict=True):
        (alone,) = engine.tell([work])
        assert told.texts == alone.texts
        assert [label for label, _ in told.label_scores] == [label for label, _ in alone.label_scores]
        assert [value for _, value in told.label_scores] == pytest.approx([value for _, value in alone.label_scores])
    assert together[0].texts == tuple(engine.predictor.caption([picture(0)]))


def test_a_head_gives_each_label_its_probability(engine: Engine) -> None:
    (told,) = engine.tell([Work(picture(1), LABEL, labels=LABELS)])
    assert {label for label, _ in told.label_scores} == set(LABELS)
    assert sum(value for _, value in told.label_scores) == pytest.approx(1)
    assert engine.predictor.answer([picture(1)], ["classify"], ["digit"]) == [told.label_scores[0][0]]


def test_what_cannot_be_answered_costs_the_others_nothing(engine: Engine) -> None:
    long = Work(picture(1), (("classify", "red " * 200),))
    untrained = Work(picture(1), (("vqa", "which digit"),))
    no_image = Work(b"no picture", CAPTION)
    told = engine.tell([MIXED[0], long, untrained, no_image, MIXED[3]])
    assert [one.fault and one.fault.code for one in told] == [
        None, "text_too_long", "task_not_trained", "format_not_allowed", None,
    ]  # fmt: skip
    assert told[0].texts == tuple(engine.predictor.caption([picture(0)]))


def test_hiding_a_part_changes_the_likelihood_by_what_is_told(engine: Engine) -> None:
    carried = occlude(engine, Work(picture(0), CAPTION))
    assert [len(row) for row in carried.falls] == [CELLS_A_SIDE] * CELLS_A_SIDE
    hidden = Image.open(io.BytesIO(picture(0)))
    colour = tuple(round(sum(band.getdata()) / (40 * 30)) for band in hidden.split())
    shown = [hidden.copy(), hidden]
    shown[1].paste(colour, (0, 0, round(40 / CELLS_A_SIDE), round(30 / CELLS_A_SIDE)))
    tower = engine.predictor.tower
    asked: list[Asked] = [
        one._replace(kind="likelihood", target=carried.answer) for one in engine.rows_of(Work(picture(0), CAPTION))
    ]
    whole, without = (
        engine.replies(tower.encode_pixels(tower.pixels([one])), [0], asked)[0].log_likelihood for one in shown
    )
    assert carried.falls[0][0] == pytest.approx(whole - without, abs=1e-4)


def test_labels_are_not_explained(engine: Engine) -> None:
    fault = occlude(engine, Work(picture(0), LABEL)).fault
    assert fault is not None and fault.code == "task_not_trained"


class Broken:
    """An index that fails as numpy does."""

    def nearest(self, *_: object) -> None:
        raise ValueError("shapes do not match")


def test_a_fault_of_the_server_costs_only_the_request_that_met_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "similar", Broken())
    first, failed, last = engine.tell([MIXED[0], Work(picture(1), num_neighbours=2), MIXED[3]])
    assert first.texts and last.texts and not first.fault
    assert failed.fault is not None and (failed.fault.code, failed.fault.status) == ("failed", 500)


def test_features_of_another_tower_are_not_searched_in(engine: Engine, tmp_path: Path) -> None:
    store, card = LocalStore(tmp_path), engine.predictor.package.card

    def index(tower_digest: str, **config: Any) -> VersionPlace:
        told = {**card.features.model_dump(mode="json"), **config}
        request = OutputRequest("featurize", 1, "demo", told, {"tower_digest": tower_digest})
        ensure_output(store, request, lambda _: Draft(parts=[], identity={}, counts={}), {})
        return VersionPlace("engine", "7", tmp_path, "sqlite://", store.uri, tmp_path, request.fingerprint, "none")

    check_index(index(card.vision_tower.digest), card, store)
    for other in (index("f" * 64), index(card.vision_tower.digest, pooling="mean")):
        with pytest.raises(ConfigError, match=r"another tower or of other settings.*--index"):
            check_index(other, card, store)
