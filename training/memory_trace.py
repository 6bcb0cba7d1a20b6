"""What a training would keep in memory, traced on fake tensors: they have shapes and no contents, so that nothing is
read but configuration and tokenizer, and nothing is computed.

Shapes: B images, P patches, V vision width.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data_prep.dataset import Example
from data_prep.features import FeatureStore
from data_prep.views import ORIGINAL
from infra.settings import TrainResources
from training.config import TrainConfig
from training.data import Batcher, PrefixBatcher, Ranks
from training.language_model import outlined_language_model
from training.layers import apply_resources
from training.lit.data import LitBatcher, lit_images
from training.lit.material import text_tower_dtype
from training.lit.model import build_lit_model
from training.lit.text_tower import outlined_text_tower
from training.memory_estimate import Texts, Trace, UntraceableError
from training.objectives.answer_space import answer_space_of
from training.packing import PackedImage
from training.prefix_model import build_prefix_model, layout_of
from training.tokenising import tokenise


def trace(config: TrainConfig, resources: TrainResources, folder: Path, shape: tuple[int, int], texts: Texts) -> Trace:
    """`folder` is the language model's, `shape` (patches, vision width) of the features. Raises as `estimate_memory`
    does."""
    make = _lit if config.regime.kind == "lit" else _prefix
    model, batcher, images = make(config, resources, folder, shape, _examples(config, texts))
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            _pretend_on_cpu(model)
            batches = [micro_batch.tensors for micro_batch in batcher.global_batch(images).micro_batches]
            activations = _peak(model, batches[0])  # the longest
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        raise UntraceableError(
            f"{folder}: it cannot be estimated for this model ({error} depends on numbers)"
        ) from error
    parameters = list(model.parameters())
    return Trace(
        num_trained=sum(p.numel() for p in parameters if p.requires_grad),
        num_frozen=sum(p.numel() for p in parameters if not p.requires_grad),
        frozen=sum(p.nbytes for p in parameters if not p.requires_grad),
        largest_trained=max(p.numel() for p in parameters if p.requires_grad),
        activations=activations,
        global_batch=sum(t.nbytes for batch in batches for t in tree_leaves(vars(batch)) if isinstance(t, Tensor)),
    )


def check_trainable(config: TrainConfig, resources: TrainResources, folder: Path, shape: tuple[int, int]) -> None:
    """Raises ConfigError where mapper, regime and objectives do not fit these models, as the ranks would."""
    make = _lit if config.regime.kind == "lit" else _prefix
    make(config, resources, folder, shape, _examples(config.model_copy(update={"global_batch_images": 1}), Texts(1, 1)))


Traced = tuple[nn.Module, Batcher, Sequence[PackedImage]]


def _prefix(
    config: TrainConfig, resources: TrainResources, folder: Path, shape: tuple[int, int], examples: list[Example]
) -> Traced:
    """As prefix_material makes them."""
    space = answer_space_of(examples, config.objectives)
    with torch.device("meta"):  # PEFT moves modules, which fake tensors do not allow
        language = outlined_language_model(folder, torch.bfloat16 if config.language_in_bf16 else torch.float32)
        model = build_prefix_model(config, language, shape, space)
    layout = layout_of(config, language)
    images = tokenise(examples, language, config, layout, space)
    apply_resources(model.lm.base_model, resources.model_copy(update={"compile": False}))
    tokens = None if config.objectives.contrast else resources.micro_batch_tokens
    return model, PrefixBatcher(_NoFeatures(shape), layout, config, Ranks(0, resources.num_ranks, tokens)), images


def _lit(
    config: TrainConfig, resources: TrainResources, folder: Path, shape: tuple[int, int], examples: list[Example]
) -> Traced:
    """As lit_material makes them."""
    with FakeTensorMode(allow_non_fake_inputs=True):  # the tower is asked for its width
        tower = outlined_text_tower(folder, text_tower_dtype(config))
        model = build_lit_model(config, tower, shape[1])
    images = lit_images(examples, tower, config)
    apply_resources(model.lm, resources.model_copy(update={"compile": False}))
    ranks = Ranks(0, resources.num_ranks, None)
    return model, LitBatcher(_NoFeatures(shape), tower.pad_id, config, ranks), images


def _pretend_on_cpu(model: nn.Module) -> None:
    """Put fake tensors in place of what the model was built of: they choose the kernels of a real device. Tied
    parameters stay tied."""
    made: dict[Tensor, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in made:
                made[parameter] = nn.Parameter(
                    torch.empty(parameter.shape, dtype=parameter.dtype), parameter.requires_grad
                )
            setattr(module, name, made[parameter])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


class _NoFeatures(FeatureStore):
    """Zeros for every image."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.num_patches, self.vision_width = shape

    def gather(self, image_ids: Sequence[str], view: str = ORIGINAL) -> NDArray[np.float16]:  # noqa: ARG002
        return np.zeros((len(image_ids), self.num_patches, self.vision_width), dtype=np.float16)


def _examples(config: TrainConfig, texts: Texts) -> list[Example]:
    """A global batch of images, each with a row of every task and no more targets than are trained at once."""
    text = " ".join(["a"] * texts.tokens_per_target)
    num_targets = min(texts.targets_per_image, config.max_targets_per_image)
    found = []
    for number in range(config.global_batch_images):
        image_id, label = f"{number:064x}", f"label {number % texts.num_labels}"
        for task, targets in (
            ("caption", (text,) * num_targets),
            ("vqa", ("a",)),
            ("classify", (label,)),
            ("regress", ()),
        ):
            made = Example(f"any {task}", image_id, task, text, targets, "train", "traced", 1.0, (0.0,), label)
            found.append(made)
    return found


def _peak(model: nn.Module, batch: Any) -> int:
    """Bytes, with gradients dropped as soon as they are whole."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_drop)  # type: ignore[no-untyped-call]  # torch's own
    model.train()
    with _Alive() as alive:
        model(batch).total.backward()
    return int(alive.peak)


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Counts the bytes of all storages that operations made and nobody has dropped yet."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._sizes:
            self._sizes[id(storage)] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._gone, id(storage))

    def _gone(self, number: int) -> None:
        self.now -= self._sizes.pop(number)
