from dataclasses import replace
from pathlib import Path

import pytest
from registered_model import Model

from infra.errors import ConfigError, IntegrityError
from infra.outputs import Manifest, upload_part
from training.export import export
from training.package import TRAINABLES


def test_an_export_goes_into_an_empty_folder_only_and_whole(model: Model, tmp_path: Path) -> None:
    version, folder = model.add(), tmp_path / "exported"
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(ConfigError, match="something is there"):
        export(model.place.registry, version, model.workspace.cache, folder)
    altered = model.file(version, f"artifacts/package/{TRAINABLES}")
    altered.write_bytes(altered.read_bytes() + b"?")
    with pytest.raises(IntegrityError, match=TRAINABLES):
        export(model.place.registry, version, model.workspace.cache, tmp_path / "other")
    assert not (tmp_path / "other").exists() and [path.name for path in folder.iterdir()] == ["mine"]


def test_an_export_takes_the_adapter_of_peft_along(model: Model, tmp_path: Path) -> None:
    (tmp_path / "adapter").write_text("{}")
    part = upload_part(model.place.store, "train", tmp_path / "adapter", "peft", 0, name="peft/adapter_config.json")
    train = model.world.parts.train
    draft = train.draft.model_copy(update={"parts": [*train.parts, part]})
    made = Manifest.model_validate(train.model_dump(exclude={"digest"}) | {"draft": draft.model_dump()})
    model.world = replace(model.world, parts=replace(model.world.parts, train=made))
    export(model.place.registry, model.add(), model.workspace.cache, tmp_path / "exported")
    assert (tmp_path / "exported" / "peft" / "adapter_config.json").read_text() == "{}"
