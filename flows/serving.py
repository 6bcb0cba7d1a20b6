"""`frostline caption` and `frostline ask`: a registered model answers on the command line."""

import json
from collections.abc import Sequence
from pathlib import Path

from data_prep.images import decode
from flows.opened import open_workspace
from infra.errors import ConfigError, DataError
from infra.logs import engines_to, new_log_file
from infra.progress import Silent
from infra.workspace import Workspace


def caption_command(model_uri: str, images: Sequence[Path], store: str | None, as_json: bool) -> None:
    pictures = [read_image(path) for path in images]
    captions = answer(model_uri, _workspace(store), pictures, question=None)
    found = [{"image": str(path), "caption": text} for path, text in zip(images, captions, strict=True)]
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    for line in found:
        print(line["caption"] if len(found) == 1 else f"{line['image']}: {line['caption']}")


def ask_command(model_uri: str, image: Path, question: str, store: str | None, as_json: bool) -> None:
    (text,) = answer(model_uri, _workspace(store), [read_image(image)], question)
    found = {"image": str(image), "question": question, "answer": text}
    print(json.dumps(found, ensure_ascii=False, indent=2) if as_json else text)


def answer(model_uri: str, workspace: Workspace, images: Sequence[bytes], question: str | None) -> list[str]:
    """Captions of the images, or answers to the question about each, by `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Every byte of the model is verified first."""
    with engines_to(new_log_file(workspace.settings.logs)):
        from infra.tracking import Registry
        from training.predictor import Predictor, fetch_package

        registry = Registry(workspace.settings.mlflow)
        folder = fetch_package(registry, registry.resolve(model_uri), workspace.cache.folder)
        predictor = Predictor.load(folder, workspace.cache.folder, workspace.store)
        if question is None:
            return predictor.caption(images)
        return [text for image in images for text in predictor.ask(image, [question])]


def read_image(path: Path) -> bytes:
    """The file's bytes. Raises ConfigError where there is no file, DataError where it is no image."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read ({error.strerror}); expected an image file. Check the path.") from error
    try:
        decode(data)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return data


def _workspace(store: str | None) -> Workspace:
    return open_workspace("laptop", Silent(), store, writable=False)
