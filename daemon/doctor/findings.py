"""What a check found: how bad it is, what it is about, and how to mend it."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is; an error keeps agentcron from doing what its config says."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that a check found."""

    severity: Severity
    about: str
    what: str
    mend: str | None = None
    """What to do about it; None where nothing needs to be done."""


def ok(about: str, what: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(Severity.OK, about, what)


def note(about: str, what: str, mend: str | None = None) -> Finding:
    """Return something worth knowing."""
    return Finding(Severity.NOTE, about, what, mend)


def warning(about: str, what: str, mend: str) -> Finding:
    """Return something that will do harm one day."""
    return Finding(Severity.WARNING, about, what, mend)


def error(about: str, what: str, mend: str) -> Finding:
    """Return something that does harm now."""
    return Finding(Severity.ERROR, about, what, mend)
