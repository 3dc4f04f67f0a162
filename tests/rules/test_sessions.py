"""Which session the next run of a schedule works in, and what agents say that do not have it."""

from datetime import UTC, datetime, timedelta

import pytest

from daemon.rules.sessions import Conversation, SessionLimits, command_by_hand, is_session, refusal_in, why_new

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LAST = Conversation("s-1", NOW - timedelta(hours=2), 3)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("last", "limits", "reason"),
    [
        (None, SessionLimits(), "there is none to continue"),
        (LAST, SessionLimits(), None),
        (LAST, SessionLimits(3 * HOUR, 4), None),
        (LAST, SessionLimits(max_age=2 * HOUR), "the last one is too old (session_max_age = 2h)"),
        (LAST, SessionLimits(max_runs=3), "the last one had 3 runs (session_max_runs = 3)"),
    ],
)
def test_a_session_is_continued_within_its_limits(
    last: Conversation | None, limits: SessionLimits, reason: str | None
) -> None:
    assert why_new(last, limits, NOW) == reason


def test_a_session_that_began_after_now_is_not_too_old() -> None:
    assert why_new(LAST, SessionLimits(max_age=HOUR), NOW - timedelta(days=1)) is None


@pytest.mark.parametrize("text", ["", "--dangerous", "-x", "a b", "a\nb", "a\0b", "***", "x" * 201, "é", "a;b", "a$b"])
def test_what_would_be_an_option_or_no_word_is_no_session(text: str) -> None:
    assert not is_session(text)
    assert command_by_hand("claude", text) is None


@pytest.mark.parametrize("text", ["0199a213-81c0-7800", "ses_71Ab", "x" * 200, "thread:1/2"])
def test_ids_as_programs_make_them_are_sessions(text: str) -> None:
    assert is_session(text)
    assert command_by_hand("claude", text) == f"claude --resume {text}"


@pytest.mark.parametrize(
    ("result_format", "words"),
    [
        ("claude", "No conversation found with session ID: 0b7c"),
        ("codex", "Error: thread/resume: thread/resume failed: no rollout found for thread id 019e (code -32600)"),
        ("gemini", 'Error resuming session: Invalid session identifier "0b7c".'),
        ("gemini", "  Use --list-sessions to see available sessions, then use --resume {number}"),
        ("opencode", "Session not found"),
    ],
)
def test_the_words_of_each_program_are_known(result_format: str, words: str) -> None:
    assert refusal_in(result_format, None, "something else", words) == words
    assert refusal_in("none", words) is None
    assert refusal_in(result_format, None, "exit status 1") is None
