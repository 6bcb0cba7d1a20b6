"""What a registered model version holds: the trained parameters, and pins of the frozen models they stand between.

    trainables.safetensors   fp32 tensors by name
    frostline.json           configuration, pins, digests of the other files
    model.py                 MLflow "models from code": loads the folder with Frostline's own loader
    README.md                the lines that load it
    language_model/          of an int8 model: the language model itself (see training.quantising.language_model)

No pickle anywhere; reading a package executes nothing.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_prep.pins import Pin, check_file
from data_prep.tower import FeatureConfig
from infra.digests import canonical_json, digest_file, digest_json
from infra.errors import IntegrityError
from training.config import TrainConfig
from training.generation import GenerationConfig
from training.objectives.answer_space import AnswerSpace

SCHEMA_VERSION = 1
LANGUAGE_MODEL = "language_model"
TRAINABLES, CARD, SCRIPT, README = "trainables.safetensors", "frostline.json", "model.py", "README.md"


class ModelCard(BaseModel):
    """What the trained parameters are and what they stand between. Content of `frostline.json`, less file digests."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = SCHEMA_VERSION
    model_name: str
    model_digest: str
    training: TrainConfig
    features: FeatureConfig
    generation: GenerationConfig
    num_patches: int = Field(gt=0)
    vision_width: int = Field(gt=0)
    answer_space: AnswerSpace = AnswerSpace()
    vision_tower: Pin
    language_model: Pin
    """Of an int8 model: what it was made from, which nobody needs any more."""
    quantization: Literal["int8"] | None = Field(default=None, exclude_if=lambda value: value is None)
    """None is not written: cards of other models stay what they were."""


class Package(BaseModel):
    """A folder that was read and found whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: Path
    card: ModelCard
    digest: str
    """Of `frostline.json`'s content, and through it of every file."""

    @property
    def trainables(self) -> Path:
        return self.folder / TRAINABLES

    @property
    def parameters(self) -> list[Path]:
        """What was trained or made from it."""
        inside = sorted((self.folder / LANGUAGE_MODEL).iterdir()) if self.card.quantization else []
        return [self.trainables, *inside]

    @property
    def files(self) -> list[Path]:
        """Each that belongs to it."""
        return [*self.parameters, *(self.folder / name for name in (CARD, SCRIPT, README))]


def write_package(folder: Path, card: ModelCard, trainables: Path, language_model: Path | None = None) -> Package:
    """Fill an empty folder. The same card and parameters give the same bytes. `language_model` is an int8 model's
    folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trainables, folder / TRAINABLES)
    (folder / SCRIPT).write_text(_SCRIPT)
    (folder / README).write_text(_readme(card))
    files = {name: digest_file(folder / name) for name in (TRAINABLES, SCRIPT, README)}
    if language_model is not None:
        shutil.copytree(language_model, folder / LANGUAGE_MODEL)
        files |= {f"{LANGUAGE_MODEL}/{path.name}": digest_file(path) for path in language_model.iterdir()}
    content = {"card": card.model_dump(mode="json"), "files": files}
    (folder / CARD).write_bytes(canonical_json({**content, "digest": digest_json(content)}))
    return read_package(folder)


def read_package(folder: Path) -> Package:
    """The package, every file compared with its digest. Raises IntegrityError naming the first that differs."""
    content = _read_card(folder / CARD)
    for name, expected in sorted(content["files"].items()):
        check_file(folder / name, str(expected), "Download the model version again, or register the model anew.")
    try:
        card = ModelCard.model_validate(content["card"])
    except ValidationError as error:
        problem = error.errors()[0]
        raise IntegrityError(
            f"{folder / CARD}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}; expected a model card of schema "
            f"version {SCHEMA_VERSION}. Use the Frostline that wrote it (its commit is a tag of the model version)."
        ) from error
    _check_language_model(folder, card, content["files"])
    return Package(folder=folder, card=card, digest=content["digest"])


def _check_language_model(folder: Path, card: ModelCard, files: Mapping[str, str]) -> None:
    """Exactly the files that the card lists lie there: a tokenizer reads what it finds."""
    listed = {name for name in files if name.startswith(f"{LANGUAGE_MODEL}/")}
    inside = folder / LANGUAGE_MODEL
    found = {path.relative_to(folder).as_posix() for path in inside.rglob("*")} if inside.exists() else set()
    if found != listed or bool(listed) != (card.quantization is not None):
        other = min(found ^ listed, default=LANGUAGE_MODEL)
        raise IntegrityError(
            f"{folder / other}: found {'a file that the card does not list' if other in found else 'no such file'}; "
            f"expected {len(listed)} files of an int8 language model. Download the model version again, or export anew."
        )


def _is_listable(name: str) -> bool:
    """Whether a card may list the file beside those that each package has."""
    parts = PurePosixPath(name).parts
    return len(parts) == 2 and parts[0] == LANGUAGE_MODEL and parts[1] != ".." and name == "/".join(parts)


def _read_card(path: Path) -> dict[str, Any]:
    import json

    remedy = "Download the model version again, or register the model anew."
    try:
        content = json.loads(path.read_bytes())
        digest = content.pop("digest")
        always = {TRAINABLES, SCRIPT, README}
        more = set(content["files"]) - always
        if digest_json(content) != digest or not always <= set(content["files"]) or not all(map(_is_listable, more)):
            raise ValueError("its content is not what its digest says")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path}: not a whole model card ({error}); expected what Frostline wrote. {remedy}"
        ) from error
    return {**content, "digest": digest}


def _readme(card: ModelCard) -> str:
    def told(model: Pin) -> str:
        if model.ref.id:
            return f"`{model.ref.id}` at `{model.ref.revision}`"
        if model.ref.folder:
            return f"folder `{model.ref.folder.name}`, digest `{model.digest[:12]}`"
        return f"`{model.ref.base}` of base output `{(model.base_fingerprint or '')[:12]}`"

    mapper = card.training.mapper
    assert mapper is not None, "the regime lit answers no prompts, so it is not evaluated and not packaged"
    where = "that are not in this folder and are\nchecked by digest when it is loaded:"
    language = f"- language model: {told(card.language_model)}"
    if card.quantization:
        where = "of which the language model is\nin this folder, in int8 and for CPUs. The other is checked by digest:"
        language = f"- language model: folder `{LANGUAGE_MODEL}`, made from {told(card.language_model)}"
    return f"""# {card.model_name}

Model `{card.model_digest[:12]}`: a trained mapper ({mapper.kind}, {mapper.prefix_tokens}
prefix tokens; regime {card.training.regime.kind}) between two pretrained models {where}

- vision tower: {told(card.vision_tower)}
{language}

With Frostline installed:

```python
from pathlib import Path
from training.predictor import Predictor

predictor = Predictor.load(Path("."), cache_dir=Path("var/cache"))
image = Path("photo.jpg").read_bytes()
print(predictor.caption([image]), predictor.ask(image, ["what is this?"]))
```
"""


_SCRIPT = '''"""MLflow "models from code": the folder beside this file, behind mlflow.pyfunc."""

from infra.tracking import serve_pyfunc
from training.predictor import answer_table, load_for_serving

serve_pyfunc(load_for_serving, answer_table)
'''
