"""What a supervisor recorded of its run's end, checked: an agent can write to these files, too."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from daemon.agents.process.agent_report import LONGEST_MESSAGE
from daemon.agents.process.supervisor import status
from daemon.rules.reported import LARGEST, amount_of

_REASONS = frozenset(
    {"exited", "cancelled", "timeout", "idle_timeout", "exec_failed", "exec_impossible_now", "supervisor_failed"}
)
_LATEST = 253_402_300_799.0  # the end of the year 9999, the last that a datetime can hold


@dataclass(frozen=True)
class ExitRecord:
    """How a command ended, as its supervisor recorded it; None where that is unknown."""

    reason: str
    """Why it ended: `exited` by itself, or what ended it or kept it from starting."""
    error: str | None
    """What kept it from starting, or which expectation its work missed although it exited."""
    exit_code: int | None
    signal: int | None
    at: float | None
    """When it ended, in seconds since the epoch."""
    output_bytes: int | None
    output_dropped: int | None
    cpu_seconds: float | None
    memory_peak: int | None
    """Bytes."""
    oom_kills: int
    """How many of its processes the kernel killed because memory ran out."""
    left_over: int
    """How many of its processes could not be killed."""
    complaint: str | None
    """Why a part of the agent's report is missing."""
    last_line: str | None
    """The last line that the command printed, on the standard error if there is one."""


def read_exit(descriptor: int, key: bytes | None) -> ExitRecord | None:
    """Return the exit record, None if there is none; raise DamagedRecordError if it cannot be used."""
    record = status.read_record(descriptor, "exit", key)
    return None if record is None else _exit_of(record)


def read_cancellation(descriptor: int, key: bytes | None) -> str | None:
    """Return why a daemon cancelled the run, None unless one noted it here."""
    try:
        record = status.read_record(descriptor, "cancel", key)
        reason: str | None = None if record is None else _used(record, "cancel", {"error": _text})["error"]
    except status.DamagedRecordError:
        return None
    return reason


def _exit_of(record: dict[str, Any]) -> ExitRecord:
    found = _used(record, "exit", _CHECKS)
    signal, oom_kills, left_over = found["signal"] or None, found["oom_kills"] or 0, found["left_over"] or 0
    ended = ExitRecord(**{**found, "signal": signal, "oom_kills": oom_kills, "left_over": left_over})
    if ended.reason not in _REASONS or (ended.reason == "exited" and (ended.exit_code is None) == (not ended.signal)):
        raise status.DamagedRecordError("the exit record does not say how the command ended")
    return ended


def _used(record: dict[str, Any], slot: str, checks: Mapping[str, Callable[[object], object]]) -> dict[str, Any]:
    """Return the values of a record that have checks, None for what is missing.

    Raise DamagedRecordError if one does not pass its check.
    """
    found: dict[str, Any] = dict.fromkeys(checks)
    for name, check in checks.items():
        given = record.get(name)
        if given is not None:
            found[name] = value = check(given)
            if value is None:
                raise status.DamagedRecordError(f"the {slot} record has an invalid {name}")
    return found


def _text(value: object) -> str | None:
    """Return text that can be stored: bounded, and without the lone surrogates that JSON can contain."""
    return value[:LONGEST_MESSAGE].encode(errors="replace").decode() if isinstance(value, str) else None


def _count(value: object, most: int = LARGEST) -> int | None:
    return value if type(value) is int and 0 <= value <= most else None  # a supervisor writes no 3 as 3.0


def _byte(value: object) -> int | None:
    return _count(value, 255)


def _seconds(value: object) -> float | None:
    return amount_of(value, _LATEST)


_CHECKS: dict[str, Callable[[object], object]] = {
    "reason": _text,
    "error": _text,
    "exit_code": _byte,
    "signal": _byte,
    "at": _seconds,
    "output_bytes": _count,
    "output_dropped": _count,
    "cpu_seconds": _seconds,
    "memory_peak": _count,
    "oom_kills": _count,
    "left_over": _count,
    "complaint": _text,
    "last_line": _text,
}
"""For each value of an exit record: returns it as it is used, None if it cannot be used."""
