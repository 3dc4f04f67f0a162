"""The result of a check: its severity, its subject, the problem and the fix."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How serious a finding is; with an error, agentcron cannot do what its config says."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One result of a check."""

    severity: Severity
    about: str
    what: str
    fix: str | None = None
    """How to fix it; None if there is nothing to fix."""

    def view(self) -> dict[str, Any]:
        """Return the finding as `doctor --json` prints it."""
        return {"severity": self.severity, "about": self.about, "what": self.what, "mend": self.fix}


def ok(about: str, what: str) -> Finding:
    """Return that a check passed."""
    return Finding(Severity.OK, about, what)


def note(about: str, what: str, fix: str | None = None) -> Finding:
    """Return a fact that needs no action."""
    return Finding(Severity.NOTE, about, what, fix)


def warning(about: str, what: str, fix: str) -> Finding:
    """Return a problem that will do harm later."""
    return Finding(Severity.WARNING, about, what, fix)


def error(about: str, what: str, fix: str) -> Finding:
    """Return a problem that does harm now."""
    return Finding(Severity.ERROR, about, what, fix)
