"""What a session used: tokens and cost, in the places where agents report them."""

from typing import Any

_MOST_TOKENS = 2**63  # more than the daemon accepts; it reports the value
_READ = ("inputTokens", "cachedReadTokens", "cachedWriteTokens")
_WRITTEN = ("outputTokens", "thoughtTokens")


def tokens_in(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens that the answer to a prompt reports; empty if it reports none."""
    usage = answer.get("usage")
    if isinstance(usage, dict):
        return {
            "input_tokens": _sum([usage.get(name) for name in _READ]),
            "output_tokens": _sum([usage.get(name) for name in _WRITTEN]),
        }
    counted: object = answer
    for name in ("_meta", "quota", "token_count"):  # as gemini-cli does
        counted = counted.get(name) if isinstance(counted, dict) else None
    if not isinstance(counted, dict):
        return {}
    return {name: counted.get(name) for name in ("input_tokens", "output_tokens")}


def cost_in(update: dict[str, Any]) -> float | None:
    """Return what the session cost until now, in US dollars, if an update says so."""
    cost = update.get("cost") if update.get("sessionUpdate") == "usage_update" else None
    amount = cost.get("amount") if isinstance(cost, dict) and cost.get("currency") == "USD" else None
    return amount if isinstance(amount, int | float) and not isinstance(amount, bool) else None


def _is_count(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= _MOST_TOKENS and value % 1 == 0  # type: ignore[operator]


def _sum(values: list[Any]) -> object:
    """Return the sum of the numbers of tokens that are there, None without any; the first one that is no such number.

    The daemon reports a value that it cannot use.
    """
    found = [value for value in values if value is not None]
    for value in found:
        if not _is_count(value):
            return value
    return sum(found) if found else None
