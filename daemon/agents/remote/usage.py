"""Find tokens and cost in what agents report, under the various names that are in use."""

from collections.abc import Mapping
from typing import Any

_NAMES = {
    "input_tokens": ("input_tokens", "inputTokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "outputTokens", "completion_tokens"),
    "cost_usd": ("cost_usd", "costUsd", "total_cost_usd"),
}


def usage_in(*places: object) -> dict[str, Any]:
    """Return the usage from the first place that has it, directly or in its `metadata`."""
    for place in places:
        if not isinstance(place, Mapping):
            continue
        for holder in (place, place.get("metadata")):
            usage = holder.get("usage") if isinstance(holder, Mapping) else None
            if isinstance(usage, Mapping):
                return _normal(usage)
    return {}


def _normal(usage: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, aliases in _NAMES.items():
        value = next((usage[alias] for alias in aliases if alias in usage), None)
        if value is not None:
            found[name] = value
    return found
