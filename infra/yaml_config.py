"""YAML to strict pydantic classes, with errors a person can act on."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from infra.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError where there is none."""
    try:
        found = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot read ({error.strerror}); expected a YAML file. Check the path.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())}). Fix the file at that place.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: found {type(found).__name__}; expected a mapping of names to values.")
    return found


def set_values(config: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of the mapping with every `path.to.key=value` applied; values are YAML."""
    changed: dict[str, Any] = yaml.safe_load(yaml.safe_dump(config))
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {assignment!r} was found; expected path.to.key=value.")
        *parents, last = path.split(".")
        place: Any = changed
        for depth, key in enumerate(parents):
            place = _child(place, key, ".".join(parents[: depth + 1]), assignment)
        if isinstance(place, list):
            place[_position(place, last, assignment)] = yaml.safe_load(value)
        else:
            place[last] = yaml.safe_load(value)
    return changed


def parse(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Validate; the first problem becomes one sentence with the path, what was found and what was expected."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_told(model, error)}") from error


def _child(place: Any, key: str, path: str, assignment: str) -> Any:
    if isinstance(place, list):
        return place[_position(place, key, assignment)]
    if not isinstance(place.get(key, {}), (dict, list)):
        raise ConfigError(f"--set {assignment!r}: {path} is {place[key]!r}; expected a section with keys of its own.")
    return place.setdefault(key, {})


def _position(place: list[Any], key: str, assignment: str) -> int:
    if not key.isdigit() or int(key) >= len(place):
        raise ConfigError(
            f"--set {assignment!r}: found position {key!r} in a list of {len(place)}; expected 0 to {len(place) - 1}."
        )
    return int(key)


def _told(model: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors()[0]
    path = ".".join(str(place) for place in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = sorted(_keys_at(model, problem["loc"][:-1]))
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"found the unknown key {path!r}; expected one of {', '.join(known)}.{hint}"
    if problem["type"] == "missing":
        return f"the key {path!r} is missing; expected a value. Add it."
    return f"{path} is {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}. Change this value."


def _keys_at(model: Any, path: tuple[int | str, ...]) -> set[str]:
    """Field names of the model found by walking `path` through annotations; union tags name a member's class."""
    from typing import get_args

    if not path:
        return set(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else set()
    step, rest = path[0], path[1:]
    candidates = [model.model_fields[str(step)].annotation] if str(step) in getattr(model, "model_fields", {}) else []
    keys: set[str] = set()
    while candidates:
        found = candidates.pop()
        candidates.extend(get_args(found))
        if isinstance(found, type) and issubclass(found, BaseModel):
            below = [place for place in rest if not isinstance(place, int)]
            tagged = [place for place in below if str(place) in found.model_fields]
            untagged = len(below) > len(tagged)
            if (
                untagged
                and "kind" in found.model_fields
                and below[0] not in get_args(found.model_fields["kind"].annotation)
            ):
                continue
            keys |= _keys_at(found, tuple(tagged))
    return keys
