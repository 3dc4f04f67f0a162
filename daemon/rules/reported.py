"""Which of the numbers that agents and their servers report are used: those that can be stored and added up."""

from collections.abc import Mapping

MOST_TOKENS = 10**12
"""The largest number of input or output tokens of one run."""
MOST_COST = 1e9
"""The highest cost of one run, in US dollars."""
LARGEST = 2**63 - 1
"""The largest integer that a column of the database holds."""
_NUMBER = int | float


def count_of(value: object, most: int = LARGEST) -> int | None:
    """Return a reported value if it is a whole number from 0 to `most`, None otherwise."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one type of number
    return value if type(value) is int and 0 <= value <= most else None  # True and False are of another type


def amount_of(value: object, most: float) -> float | None:
    """Return a reported value as a float if it is a number from 0 to `most`, None otherwise."""
    if not isinstance(value, _NUMBER) or isinstance(value, bool) or not 0 <= value <= most:
        return None
    return float(value)


def usage_of(reported: Mapping[str, object]) -> tuple[dict[str, int | float], list[str]]:
    """Return the usage that a run reported as columns of the database, and a complaint about each value not used."""
    found: dict[str, int | float] = {}
    complaints = []
    for name in ("input_tokens", "output_tokens", "cost_usd"):
        value = reported.get(name)
        if value is None:
            continue
        number = amount_of(value, MOST_COST) if name == "cost_usd" else count_of(value, MOST_TOKENS)
        if number is not None:
            found[name] = number
        else:
            most = f"{MOST_COST:.0f}" if name == "cost_usd" else f"{MOST_TOKENS}"
            complaints.append(f"usage.{name} is not a number from 0 to {most}")
    return found, complaints
