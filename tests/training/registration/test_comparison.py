import pytest
from registered_model import Model

from infra import log
from infra.errors import ConfigError
from infra.outputs import Manifest
from training.comparison import compare


def test_two_versions_are_compared_on_the_same_test_rows_or_said_not_to_be(model: Model) -> None:
    model.add(), model.add()
    found = compare(model.place, "1", "2")
    assert found.scored_alike and found.differences == {"vqa_accuracy": pytest.approx(0.01)}
    assert (found.a.version, found.b.control) == ("1", {"vqa_accuracy": 0.3})
    third = model.add()
    (entry,) = log.entries(model.place.store, "evaluate", third.tags["model_digest"])
    key = f"evaluate/{entry['fingerprint']}/manifest.json"
    stored = model.place.store.read(key)
    assert stored is not None
    made = Manifest.model_validate_json(stored)
    other = Manifest.model_validate(
        made.model_dump(exclude={"digest"}) | {"inputs": {**made.inputs, "test_digest": "f" * 64}}
    )
    model.place.store.write(key, other.model_dump_json().encode())
    apart = compare(model.place, "1", "3")
    assert (apart.scored_alike, apart.differences) == (False, {})
    with pytest.raises(ConfigError, match="version '9' was not found"):
        compare(model.place, "1", "9")
