"""The language model of a trained prefix model in int8: from memory to a folder that stands alone, and back.

config.json, tokenizer files   of the language model
quantization.json              what has to be known of the original
int8.safetensors               NAME.int8 and NAME.scales of each matrix, everything else in float32 under its name
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from infra.errors import ConfigError, IntegrityError
from training.language_model import LanguageModel, outlined_language_model
from training.quantising.layers import Int8Embedding, Int8Linear, int8_rows
from training.regimes.adapter import Adapter, inject_adapters
from training.regimes.config import AdapterRegime, RegimeConfig

TENSORS, NOTE = "int8.safetensors", "quantization.json"
INT8, SCALES = ".int8", ".scales"


class Note(BaseModel):
    """Of the original, which an int8 model cannot be asked any more."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    embedding_scale: float
    shares_prefix: bool
    is_tied: bool
    """The output's matrix is the embedding: its rows are stored once."""


@dataclass(frozen=True)
class Int8LanguageModel(LanguageModel):
    """One whose matrices are int8, on the CPU."""

    note: Note

    @property
    def embedding_scale(self) -> float:
        return self.note.embedding_scale

    @property
    def shares_prefix(self) -> bool:
        return self.note.shares_prefix


def note_of(language: LanguageModel) -> Note:
    """Asked before a regime changes the model."""
    table = language.model.get_input_embeddings()
    if type(table) is not nn.Embedding:
        raise ConfigError(
            f"{type(language.model).__name__} reads tokens by {type(table).__name__}; expected a plain table. "
            "It cannot be quantised: export it as it is."
        )
    return Note(embedding_scale=language.embedding_scale, shares_prefix=language.shares_prefix, is_tied=False)


def merge_updates(model: nn.Module) -> None:
    """Put LoRA's updates into the matrices beside which they stand, by PEFT itself."""
    from peft.tuners.lora.layer import LoraLayer

    for path, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            base: Any = module.get_base_layer()
            base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)  # it may be another's too
            module.merge()
            _replace(model, path, base)


def int8_tensors(model: Any) -> tuple[dict[str, Tensor], bool]:
    """By name; and whether the output's matrix is the embedding. LoRA's updates are merged."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = head.weight is table.weight
    found: dict[str, Tensor] = {}
    taken: set[str] = set()
    for path, weight_OI in _matrices(model):
        taken.add(f"{path}.weight")
        if not (is_tied and model.get_submodule(path) is head):
            found[path + INT8], found[path + SCALES] = int8_rows(weight_OI)
    rest = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    for name, tensor in rest:
        if name not in taken:
            value = tensor.detach().cpu()
            found[name] = (value.float() if value.is_floating_point() else value).contiguous().clone()
    return found, is_tied


def install(model: Any, tensors: dict[str, Tensor], note: Note) -> None:
    """Give a model of the same configuration these tensors. Raises IntegrityError where they are not all of its own."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    paths = {id(model.get_submodule(path)): path for path, _ in _matrices(model)}
    modules = [(path, model.get_submodule(path)) for path in paths.values()]
    left = dict(tensors)
    for path, module in modules:
        source = paths[id(table)] if module is head and note.is_tied else path
        levels, scales = tensors.get(source + INT8), tensors.get(source + SCALES)
        rows = module.weight.shape[::-1] if not isinstance(module, nn.Linear | nn.Embedding) else module.weight.shape
        if levels is None or scales is None or levels.shape != rows or scales.shape != rows[:1]:
            raise _unlike(model, f"no matrix {path} of {tuple(rows)}")
        for name in (path + INT8, path + SCALES):
            left.pop(name, None)
        made = Int8Embedding(levels, scales) if module is table else _linear(module, path, levels, scales, left)
        _replace(model, path, made)
    own = {id(layer) for layer in model.modules() if isinstance(layer, Int8Linear | Int8Embedding)}
    for path, module in list(model.named_modules()):
        if id(module) in own:
            continue
        slots = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, old in slots:
            full = f"{path}.{name}" if path else name
            new = left.pop(full, None)
            if new is None or new.shape != old.shape:
                raise _unlike(model, f"{'no' if new is None else 'another shape of'} {full}")
            old.data = new
    if left:
        raise _unlike(model, f"a tensor {min(left)} that it has not")


def save_int8(tensors: dict[str, Tensor], note: Note, original: Path, folder: Path) -> None:
    """Fill an empty folder; `original` is the checkpoint's. The same model gives the same bytes."""
    import shutil

    from safetensors.torch import save_file

    from data_prep.pretrained import model_files
    from infra.digests import canonical_json

    folder.mkdir(parents=True, exist_ok=True)
    for path in model_files(original):
        if path.suffix != ".safetensors" and not path.name.endswith(".safetensors.index.json"):
            shutil.copyfile(path, folder / path.name)
    (folder / NOTE).write_bytes(canonical_json(note.model_dump(mode="json")))
    save_file(dict(sorted(tensors.items())), folder / TENSORS)


def load_int8(folder: Path, regime: RegimeConfig) -> Int8LanguageModel:
    """Of a folder that `save_int8` filled. Raises IntegrityError where its files do not belong together."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        note = Note.model_validate_json((folder / NOTE).read_bytes())
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, ValidationError, SafetensorError) as error:
        raise IntegrityError(
            f"{folder}: no int8 language model could be read ({str(error).splitlines()[0]}); expected what Frostline "
            "wrote. Export the model anew."
        ) from error
    outlined = outlined_language_model(folder, torch.float32)
    if isinstance(regime, AdapterRegime):
        inject_adapters(regime, outlined.model)
    install(outlined.model, tensors, note)
    outlined.model.requires_grad_(False).eval()
    return Int8LanguageModel(
        outlined.model, outlined.tokenizer, folder, outlined.lead_ids, outlined.eos_id, outlined.max_positions, note
    )


def _matrices(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(path, [outputs, inputs]) of each that becomes int8: linear layers and the table of tokens; not adapters."""
    from transformers.pytorch_utils import Conv1D

    kept = {id(part) for module in model.modules() if isinstance(module, Adapter) for part in module.modules()}
    table = model.get_input_embeddings()
    for path, module in list(model.named_modules()):
        if id(module) in kept:
            continue
        if type(module) is nn.Linear or module is table:
            yield path, module.weight
        elif isinstance(module, Conv1D):
            yield path, module.weight.t()


def _linear(module: Any, path: str, levels: Tensor, scales: Tensor, left: dict[str, Tensor]) -> Int8Linear:
    bias = left.pop(f"{path}.bias", None)
    if (bias is None) != (module.bias is None) or (bias is not None and bias.shape != scales.shape):
        raise _unlike(module, f"another bias of {path}")
    return Int8Linear(levels, scales, bias)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _unlike(model: nn.Module, what: str) -> IntegrityError:
    return IntegrityError(
        f"{TENSORS}: found {what}; expected exactly the tensors of {type(model).__name__} by its config.json. Export "
        "the model anew."
    )
