"""Models in MLflow's own form, for users' tools: `mlflow.pyfunc.load_model`, `mlflow models serve`."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.digests import digest_file, digest_json
from infra.record import package_versions
from infra.tracking.server import prepare_environment

if TYPE_CHECKING:
    import pandas as pd

PACKAGE_ARTIFACT = "package"
PACKAGE_PATH = f"artifacts/{PACKAGE_ARTIFACT}"
"""Where the package folder lies in a downloaded model version."""
MODEL_FILE = "MLmodel"
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
    for compiled in list(folder.rglob("__pycache__")):  # MLflow ran the script to check it
        shutil.rmtree(compiled)
    return folder


def files_digest(folder: Path) -> str:
    """Of all files of a model that `write_pyfunc` wrote, names included: what an added file or another loader changes.

    Equal for two writers of one model. Bytecode counts for nothing: MLflow leaves some beside a script that it ran."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    digests = {name: digest_file(path) for name, path in files.items() if "__pycache__" not in path.parts}
    if MODEL_FILE in files:
        digests[MODEL_FILE] = digest_json(_without_stamps(files[MODEL_FILE].read_text(errors="replace")))
    return digest_json(digests)


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
