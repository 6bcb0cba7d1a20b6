"""MLflow: training runs, the model registry, models in its own form. The only folder that imports mlflow, and only
where it is used. Works on SQLite without a server and over HTTP; every change made twice has the effect of once."""

from infra.tracking.pyfunc import PACKAGE_PATH, changed_file, listing_of, serve_pyfunc, write_pyfunc
from infra.tracking.registry import COMPLETE_TAG, DIGEST_TAG, ModelVersion, Registry, list_models
from infra.tracking.runs import TrainingRun, open_run
from infra.tracking.server import prepare_environment

__all__ = [
    "COMPLETE_TAG",
    "DIGEST_TAG",
    "PACKAGE_PATH",
    "ModelVersion",
    "Registry",
    "TrainingRun",
    "changed_file",
    "list_models",
    "listing_of",
    "open_run",
    "prepare_environment",
    "serve_pyfunc",
    "write_pyfunc",
]
