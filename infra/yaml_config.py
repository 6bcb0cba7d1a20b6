"""YAML to strict pydantic classes, with errors a person can act on."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
        place[_position(place, last, assignment) if isinstance(place, list) else last] = _value(value, assignment)
    return changed


def parse(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Validate; the first problem becomes one sentence with the path, what was found and what was expected."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_told(model, error)}") from error


def _value(text: str, assignment: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment!r}: {text!r} was found; expected a value in YAML. Quote it.") from error


def _child(place: Any, key: str, path: str, assignment: str) -> Any:
    """The section or list under `key`. A section that is missing or null is made."""
    at = _position(place, key, assignment) if isinstance(place, list) else key
    if isinstance(place, dict) and place.get(key) is None:
        place[key] = {}
    if not isinstance(place[at], (dict, list)):
        raise ConfigError(f"--set {assignment!r}: {path} is {place[at]!r}; expected a section with keys of its own.")
    return place[at]


def _position(place: list[Any], key: str, assignment: str) -> int:
    if not key.isdigit() or int(key) >= len(place):
        raise ConfigError(
            f"--set {assignment!r}: found position {key!r} in a list of {len(place)}; expected 0 to {len(place) - 1}."
        )
    return int(key)


def suggestion(name: str, known: Sequence[str]) -> str:
    """` Did you mean ...?` for a name that is nearly a known one, else nothing."""
    near = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _told(model: type[BaseModel], error: ValidationError) -> str:
    # A misspelt required key is also missing: what is there and wrong is told first.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    places, _ = _walk(model, problem["loc"])
    path = ".".join(places)
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _told_tag(path, problem)
    if problem["type"] == "extra_forbidden":
        _, classes = _walk(model, problem["loc"][:-1])
        known = sorted({name for found in classes for name in found.model_fields})
        return f"found the unknown key {path!r}; expected one of {', '.join(known)}.{suggestion(places[-1], known)}"
    if problem["type"] == "missing":
        return f"the key {path!r} is missing; expected a value. Add it."
    if problem["type"] == "value_error":  # of our own validators, which say what to do
        return f"{path}: {problem['ctx']['error']}."
    return f"{path} is {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}. Change this value."


def _told_tag(path: str, problem: Any) -> str:
    """About a mapping whose `kind` decides its class."""
    found = problem["input"].get("kind") if isinstance(problem["input"], dict) else None
    known = re.findall(r"'([^']+)'", str(problem.get("ctx", {}).get("expected_tags", "")))
    if not known:
        return f"the key '{path}.kind' is missing; expected a value. Add it."
    return f"{path}.kind is {found!r}; expected one of {', '.join(known)}.{suggestion(str(found), known)}"


def _walk(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """The path as a person wrote it, without pydantic's union tags, and the classes that may stand at its end."""
    places: list[str] = []
    classes = [model]
    for step in location:
        tagged = [found for found in classes if step in _kinds(found)]
        if tagged and len(classes) > 1:
            classes = tagged
            continue
        places.append(str(step))
        fields = [found.model_fields[str(step)] for found in classes if str(step) in found.model_fields]
        if fields:  # a position in a list or a key of a mapping stays with the classes of its elements
            classes = [found for field in fields for found in _classes_in(field.annotation)]
    return places, classes


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def _classes_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _classes_in(argument)]
