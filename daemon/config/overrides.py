"""Read overrides of config scalars from environment variables, such as `AGENTCRON_RETENTION__DAYS=30`."""

import os
import tomllib
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from daemon.config.schema import Config

PREFIX = "AGENTCRON_"
SECTIONS = ("daemon", "log", "control", "retention", "cleanup")


def read_overrides(
    environment: Mapping[str, str] = os.environ,
) -> tuple[dict[tuple[str, str], Any], list[str]]:
    """Return the overriding value of each (section, key), and an error for each misspelt name of an override."""
    found: dict[tuple[str, str], Any] = {}
    problems = []
    for variable, text in sorted(environment.items()):
        section, separator, key = variable.removeprefix(PREFIX).partition("__")
        if not variable.startswith(PREFIX) or not separator or section.lower() not in SECTIONS:
            continue
        keys = _scalars(section.lower())
        if variable != variable.upper() or key.lower() not in keys:
            allowed = ", ".join(f"{PREFIX}{section.upper()}__{name.upper()}" for name in keys)
            problems.append(f"environment variable {variable}: unknown override; allowed are {allowed}")
            continue
        found[section.lower(), key.lower()] = _typed(text, keys[key.lower()])
    return found, problems


def variable_name(section: str, key: str) -> str:
    """Return the name of the variable that overrides a key."""
    return f"{PREFIX}{section}__{key}".upper()


def _scalars(section: str) -> dict[str, type]:
    """Return the scalar keys of a section with their TOML types."""
    model = Config.model_fields[section].annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TypeError(section)
    kinds = {name: _toml_type(field.annotation) for name, field in model.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _toml_type(annotation: Any) -> type | None:  # noqa: ANN401 - annotations are of any kind
    if get_origin(annotation) in {Union, UnionType}:
        return next((_toml_type(part) for part in get_args(annotation) if part is not type(None)), None)
    if get_origin(annotation) is list:
        return None
    if get_origin(annotation) is Literal:
        return str
    return annotation if annotation in {bool, int, float} else str


def _typed(text: str, kind: type) -> object:
    """Parse the text of a variable as TOML would; text that does not fit is left for the schema to reject."""
    if kind is str:
        return text
    try:
        value = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    return value["value"] if len(value) == 1 else text
