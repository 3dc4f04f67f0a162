"""The mode and the model of a session: what the agent offers, and how each is set.

An agent may offer the same choice in several ways: as a config option, which replaces the others in the protocol, and
as a list of its own. Models in a list of their own were never a stable part of the protocol, but are widely in use.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..supervisor.untrusted_json import objects_in
from .failures import CONFIG, SessionError

_LISTS = {"mode": "availableModes", "model": "availableModels"}
_IDS = {"mode": "id", "model": "modelId"}
_MOST_NAMED = 50


@dataclass(frozen=True)
class Choice:
    """One way to choose a mode or a model."""

    method: str
    params: dict[str, str]
    key: str
    """The parameter that takes the value."""
    values: list[str]


def choices(offer: dict[str, Any], what: str) -> Iterator[Choice]:
    """Yield the ways to choose the `mode` or the `model` that an agent offered with its session, the best one first."""
    for option in objects_in(offer.get("configOptions")):
        number = option.get("id")
        if isinstance(number, str) and option.get("category", number) == what:
            values = list(_values(option.get("options")))
            yield Choice("session/set_config_option", {"configId": number}, "value", values)
    listed = offer.get(f"{what}s")
    if isinstance(listed, dict):
        values = [
            one[_IDS[what]] for one in objects_in(listed.get(_LISTS[what])) if isinstance(one.get(_IDS[what]), str)
        ]
        yield Choice(f"session/set_{what}", {}, f"{what}Id", values)


def not_offered(what: str, value: str, found: list[Choice]) -> SessionError:
    """Return the failure of a session whose agent does not offer a value."""
    values = list(dict.fromkeys(value for choice in found for value in choice.values))
    if not values:
        return SessionError(f"{what} = {value!r}: the agent lets nobody choose a {what}; remove the key", CONFIG)
    more = f" and {len(values) - _MOST_NAMED} more" if len(values) > _MOST_NAMED else ""
    named = ", ".join(values[:_MOST_NAMED])
    return SessionError(f"{what} = {value!r}: the agent does not offer it; it offers {named}{more}", CONFIG)


def _values(options: object) -> Iterator[str]:
    """Yield the values of a config option, which may be in groups."""
    for entry in objects_in(options):
        if isinstance(entry.get("value"), str):
            yield entry["value"]
        yield from (one["value"] for one in objects_in(entry.get("options")) if isinstance(one.get("value"), str))
