"""Models in MLflow's own form, for users' tools: `mlflow.pyfunc.load_model`, `mlflow models serve`."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from infra.digests import canonical_json, digest_file, digest_json
from infra.record import package_versions
from infra.tracking.server import prepare_environment

if TYPE_CHECKING:
    import pandas as pd

PACKAGE_ARTIFACT = "package"
PACKAGE_PATH = f"artifacts/{PACKAGE_ARTIFACT}"
"""Where the package folder lies in a downloaded model version."""
MODEL_FILE = "MLmodel"
LOAD_STAMP = "registered_model_meta"
"""Name and number of the version: MLflow leaves it where it loads a version on this machine, and never reads it."""
BYTECODE = "__pycache__"
_NO_BYTECODE = "A file of this name keeps Python from writing, or finding, bytecode beside model.py.\n"
"""MLflow runs the script of a version on this machine where it lies: a folder would be the way in for what nobody
registered, and fill up by itself."""
STAMPS = ("utc_time_created", "model_uuid", "model_id", "run_id", "artifact_path", "model_size_bytes")
"""Fields of that file that say when and where it was written, and differ between two writers of one model."""


def write_pyfunc(folder: Path, package: Path, script: Path, example: Mapping[str, str]) -> Path:
    """An MLflow model in "models from code" form around a package folder. Writes files; starts nothing, logs nothing.

    `package` must be named `package`; `script` must call `serve_pyfunc`; `example` is one row of input: column → value.
    """
    prepare_environment()
    import pandas as pd

    with warnings.catch_warnings(record=True):  # MLflow warns of its own type hints
        from mlflow.models import ModelSignature
        from mlflow.pyfunc import save_model
        from mlflow.types.schema import AnyType, ColSpec, Schema

    # `any`, because a picture may come as text (path, base64) or as bytes.
    inputs = Schema([ColSpec(AnyType(), "image"), ColSpec("string", "prompt", required=False)])
    versions = package_versions()
    needed = ("torch", "transformers", "pyarrow", "pillow", "mlflow")
    save_model(
        folder,
        python_model=str(script),
        artifacts={PACKAGE_ARTIFACT: str(package)},
        signature=ModelSignature(inputs, Schema([ColSpec("string")])),
        input_example=pd.DataFrame([dict(example)]),
        # A local suffix such as +cpu names a build that no index has.
        pip_requirements=[f"{name}=={versions[name].partition('+')[0]}" for name in needed],
    )
    for compiled in list(folder.rglob(BYTECODE)):  # MLflow ran the script to check it
        shutil.rmtree(compiled)
    (folder / BYTECODE).write_text(_NO_BYTECODE)
    return folder


def listing_of(folder: Path) -> str:
    """Names and digests of all files of a model that `write_pyfunc` wrote, as JSON. Equal for two writers of one
    model."""
    return canonical_json(_digests(folder)).decode()


def changed_file(folder: Path, listing: str) -> str | None:
    """The first file that is not as the listing says, and what became of it, in words; None where all are."""
    try:
        listed = TypeAdapter(dict[str, str]).validate_json(listing)
    except ValidationError:
        return "the list of its files was altered or lost"
    found = _digests(folder)
    name = min((name for name in {*found, *listed} if found.get(name) != listed.get(name)), default=None)
    if name is None:
        return None
    if name in found and name in listed:
        return f"{name} was altered (sha256 {found[name][:12]}… in place of {listed[name][:12]}…)"
    return f"{name} was {'added' if name in found else 'lost'}"


def _digests(folder: Path) -> dict[str, str]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    digests = {name: digest_file(path) for name, path in files.items() if name != LOAD_STAMP}
    if MODEL_FILE in files:
        digests[MODEL_FILE] = digest_json(_without_stamps(files[MODEL_FILE].read_text(errors="replace")))
    return digests


def _without_stamps(model: str) -> Any:
    """What the file makes MLflow do: less the places on its writer's disk, of which MLflow reads a script's name."""
    import yaml

    try:
        found = yaml.safe_load(model)
        flavor = found["flavors"]["python_function"]
        flavor["model_code_path"] = Path(flavor["model_code_path"]).name
        for artifact in flavor["artifacts"].values():
            del artifact["uri"]
        return {name: value for name, value in found.items() if name not in STAMPS}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return model  # not as MLflow writes it


def serve_pyfunc(load: Callable[[str], Any], answer: Callable[[Any, pd.DataFrame], list[str]]) -> None:
    """For a model script: MLflow calls `load` with the package folder once, then `answer` for every table."""
    from mlflow.models import set_model
    from mlflow.pyfunc import PythonModel, PythonModelContext

    # MLflow would take type hints for the schema, which the signature is, and warns where there are none. Recorded and
    # dropped, because it sets a filter of its own that overrides "ignore".
    with warnings.catch_warnings(record=True):

        class Served(PythonModel):  # type: ignore[misc]
            def load_context(self, context: PythonModelContext) -> None:
                self.loaded = load(context.artifacts[PACKAGE_ARTIFACT])

            # MLflow looks for these names.
            def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
                return answer(self.loaded, model_input)

    set_model(Served())
