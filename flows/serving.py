"""Opening a registered model for `caption` and `ask`."""

from infra.tracking import Registry
from infra.workspace import Workspace
from training.predictor import Predictor, fetch_package


def open_predictor(model_uri: str, workspace: Workspace) -> Predictor:
    """The model behind `models:/NAME@ALIAS` or `models:/NAME/VERSION`, every byte verified."""
    registry = Registry(workspace.settings.mlflow)
    folder = fetch_package(registry, registry.resolve(model_uri), workspace.cache.folder)
    return Predictor.load(folder, workspace.cache.folder, workspace.store)
