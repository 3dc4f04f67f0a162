"""What a supervisor recorded of its run's end, checked: an agent can write to these files, too."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from daemon.agents.process.result_formats import LONGEST_MESSAGE
from daemon.agents.process.supervisor import status
from daemon.rules.reported import LARGEST, amount_of, count_of

T = TypeVar("T")

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


def read_exit(descriptor: int, key: bytes | None) -> ExitRecord | None:
    """Return the exit record, None if there is none; raise DamagedRecordError if it cannot be used."""
    record = status.read_record(descriptor, "exit", key)
    return None if record is None else _exit_of(record)


def read_cancellation(descriptor: int, key: bytes | None) -> str | None:
    """Return why a daemon cancelled the run, None unless one noted it here."""
    try:
        record = status.read_record(descriptor, "cancel", key) or {}
        return _checked(record, "cancel", "error", _text)
    except status.DamagedRecordError:
        return None


def _exit_of(record: dict[str, Any]) -> ExitRecord:
    def value(name: str, check: Callable[[object], T | None]) -> T | None:
        return _checked(record, "exit", name, check)

    found = ExitRecord(
        reason=value("reason", _text) or "",
        error=value("error", _text),
        exit_code=value("exit_code", _byte),
        signal=value("signal", _byte) or None,
        at=value("at", _seconds),
        output_bytes=value("output_bytes", _count),
        output_dropped=value("output_dropped", _count),
        cpu_seconds=value("cpu_seconds", _seconds),
        memory_peak=value("memory_peak", _count),
        oom_kills=value("oom_kills", _count) or 0,
        left_over=value("left_over", _count) or 0,
        complaint=value("complaint", _text),
    )
    if found.reason not in _REASONS or (found.reason == "exited" and (found.exit_code is None) == (not found.signal)):
        raise status.DamagedRecordError("the exit record does not say how the command ended")
    return found


def _checked(record: dict[str, Any], slot: str, name: str, check: Callable[[object], T | None]) -> T | None:
    """Return a value of a record, None if it is missing; raise DamagedRecordError if it does not pass the check."""
    given = record.get(name)
    value = None if given is None else check(given)
    if given is not None and value is None:
        raise status.DamagedRecordError(f"the {slot} record has an invalid {name}")
    return value


def _text(value: object) -> str | None:
    """Return text that can be stored: bounded, and without the lone surrogates that JSON can contain."""
    return value[:LONGEST_MESSAGE].encode(errors="replace").decode() if isinstance(value, str) else None


def _count(value: object, most: int = LARGEST) -> int | None:
    return count_of(value, most) if isinstance(value, int) else None  # a supervisor writes no whole number as a float


def _byte(value: object) -> int | None:
    return _count(value, 255)


def _seconds(value: object) -> float | None:
    return amount_of(value, _LATEST)
