"""Find which settings differ between two configs, by key path only, since some values are secret."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from daemon.config.schema import Config


def changed_settings(before: Config, after: Config) -> list[str]:
    """Return the key paths that differ, except those of schedules, which are compared with the database."""
    return list(_differences("", dict(before), dict(after)))


def _differences(path: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key in [*before, *(key for key in after if key not in before)]:
        ours, theirs = before.get(key), after.get(key)
        if key == "schedules" or ours == theirs:
            continue
        if isinstance(ours, BaseModel) and isinstance(theirs, BaseModel):
            yield from _differences(f"{path}{key}.", dict(ours), dict(theirs))
        elif isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _differences(f"{path}{key}.", ours, theirs)
        else:
            yield f"{path}{key}"
