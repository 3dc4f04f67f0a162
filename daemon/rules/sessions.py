"""Sessions of agents: when the next run of a schedule goes on with the last one, and how agents refuse to."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from daemon.units import format_duration

TWO_IN_ONE_SESSION = '"continue" does not go with overlap = "allow_all": two runs would write into one session'
"""Why a schedule cannot have both."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,199}")
_LONGEST = 4000  # characters that are searched
_REFUSALS = {
    "claude": re.compile(r"No conversation found with session ID", re.IGNORECASE),
    "codex": re.compile(r"no rollout found|thread/resume failed", re.IGNORECASE),
    "gemini": re.compile(r"Invalid session identifier|No previous sessions found|Use --list-sessions", re.IGNORECASE),
    "opencode": re.compile(r"Session not found", re.IGNORECASE),
}
"""By format: what the program says if it does not have the session that it is to continue."""
_BY_HAND = {
    "claude": "claude --resume {}",
    "codex": "codex resume {}",
    "gemini": "gemini --resume {}",
    "opencode": "opencode --session {}",
}


@dataclass(frozen=True)
class Conversation:
    """The session that the runs of a schedule share."""

    session: str
    begun_at: datetime
    """When its first run started."""
    runs: int
    """How many runs completed in it."""


@dataclass(frozen=True)
class SessionLimits:
    """How long a schedule goes on with one session; None: without limit."""

    max_age: timedelta | None = None
    max_runs: int | None = None


def is_session(text: str) -> bool:
    """Return whether a text can be the id of a session: agents choose it, and it becomes an argument of a command."""
    return _ID.fullmatch(text) is not None


def why_new(conversation: Conversation | None, limits: SessionLimits, now: datetime) -> str | None:
    """Return why a run begins a new session, None if it goes on with the last one."""
    if conversation is None:
        return "there is none to continue"
    if limits.max_runs is not None and conversation.runs >= limits.max_runs:
        return f"the last one had {conversation.runs} runs (session_max_runs = {limits.max_runs})"
    if limits.max_age is not None and now - conversation.begun_at >= limits.max_age:
        return f"the last one is too old (session_max_age = {format_duration(limits.max_age)})"
    return None


def refusal_in(result_format: str, *words: str | None) -> str | None:
    """Return the first of some texts with which a program of a known format says that it does not have a session."""
    pattern = _REFUSALS.get(result_format)
    if pattern is None:
        return None
    return next((text for text in words if text and pattern.search(text[:_LONGEST])), None)


def command_by_hand(result_format: str, session: str) -> str | None:
    """Return the command with which a person continues a session, None if that is not known."""
    command = _BY_HAND.get(result_format)
    return command.format(session) if command is not None and is_session(session) else None
