"""Kinds of failures: what agents say of them, by program."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.failure_kinds import Signs, is_spent, kind_of


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("API Error: Request rejected (429) - This request would exceed your account's rate limit.", "quota"),
        ("You've hit your session limit \u00b7 resets 2:57am (UTC)", "quota"),
        ("You\u2019ve hit your usage limit. Upgrade to Pro or try again at 1:54 AM.", "quota"),
        ("Credit balance is too low", "quota"),
        ("Failed to authenticate. API Error: 401 OAuth token has expired.", "auth"),
        ("unexpected status 401 Unauthorized: token has expired", "auth"),
        ("Invalid API key \u00b7 Please run /login", "auth"),
        ("Please set an Auth method: no API key found", "auth"),
        ("API Error: 529 Overloaded", "overloaded"),
        ("API Error: Connection error.", "overloaded"),
        ("stream disconnected before completion", "overloaded"),
        ("[API Error: terminated]", "overloaded"),
        ("Cannot connect to API: The socket connection was closed unexpectedly.", "overloaded"),
        ("unexpected status 503 Service Unavailable", "overloaded"),
        ("Error: When using --print, --output-format=stream-json requires --verbose", "config"),
        ("error: unknown option '- look at the issues'", "config"),
        ("Not inside a trusted directory and --skip-git-repo-check was not specified.", "config"),
        ("Gemini CLI is not running in a trusted directory.", "config"),
        ("unexpected status 404 Not Found: model `x` does not exist", "config"),
        ("Claude is unable to respond to this request, which violates our Usage Policy", "refused"),
        ("the agent refused to continue (refusal)", "refused"),
        ("the agent refused session/prompt: Internal error (-32603)", "failed"),
        ("the agent refused session/new: please choose (-32000)", "auth"),
        ("", "failed"),
        ("the tests do not pass: 401 of them", "failed"),
        ("error_max_turns", "failed"),
    ],
)
def test_words_tell_the_kind(words: str, kind: str) -> None:
    assert kind_of(Signs(words)) == kind


@pytest.mark.parametrize(
    ("signs", "kind"),
    [
        (Signs("odd", "gemini", exit_status=41), "auth"),
        (Signs("odd", "gemini", exit_status=55), "config"),
        (Signs("odd", "codex", exit_status=41), "failed"),
        (Signs("odd", http_status=529), "overloaded"),
        (Signs("odd", http_status=403), "auth"),
        (Signs("odd", http_status=400, name="authentication_error"), "auth"),
        (Signs("Credit balance is too low", http_status=400), "quota"),
        (Signs("what I do not like", name="refusal"), "refused"),
    ],
)
def test_statuses_and_names_tell_the_kind(signs: Signs, kind: str) -> None:
    assert kind_of(signs) == kind


def test_spent_credit_is_told_from_a_limit_that_is_reset() -> None:
    assert is_spent("Credit balance is too low")
    assert is_spent("insufficient_quota")
    assert not is_spent("visit the settings to purchase more credits or try again at 5:44 PM")


@given(st.text(), st.text(), st.integers())
def test_whatever_is_said_has_a_kind(words: str, name: str, status: int) -> None:
    assert kind_of(Signs(words, name=name, http_status=status))
