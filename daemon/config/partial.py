"""Read state directory and socket from a config file that has errors, to reach a daemon that still runs."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from daemon.config.loading import load_config, parse, read_text, validate
from daemon.config.overrides import read_overrides
from daemon.config.schema import Config
from daemon.errors import ConfigError

_KEYS = (("daemon", "state_dir"), ("control", "socket"))


def load_location(file: Path, environment: Mapping[str, str] = os.environ) -> Config | None:
    """Return a config of nothing but state directory and socket, as far as they can be read from the file.

    An error in the file may make them point to another daemon, so ask the daemon that answers there which file it
    uses. Return None if the file does not help.
    """
    overrides, problems = read_overrides(environment)
    if problems or (overrides and _is_valid(file)):  # the error is in the command's own environment
        return None
    try:
        document = _readable_part(file, read_text(file))
    except ConfigError:
        return None
    known: dict[str, Any] = {}
    for section, key in _KEYS:
        table = document.get(section, {})
        if (section, key) in overrides:
            known.setdefault(section, {})[key] = overrides[section, key]
        elif isinstance(table, dict) and key in table:
            known.setdefault(section, {})[key] = table[key]
    try:
        return validate(file, known)
    except ValidationError:
        return None


def _is_valid(file: Path) -> bool:
    try:
        load_config(file, {})
    except ConfigError:
        return False
    return True


def _readable_part(file: Path, text: str) -> dict[str, Any]:
    """Return the file as TOML, or what stands before the error, or before the table with it; raise ConfigError."""
    try:
        return parse(file, text)
    except ConfigError as error:
        if error.line is None:
            raise
        before = text.split("\n")[: error.line - 1]
    with contextlib.suppress(ConfigError):  # the error may have begun in an earlier line
        return parse(file, "\n".join(before))
    while before and not before.pop().startswith("["):
        pass
    return parse(file, "\n".join(before))
