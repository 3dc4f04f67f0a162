"""Programs whose output is known: what becomes of what each prints, as it was seen against a stub provider."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daemon.agents.base import Outcome, RunSettings
from tests.support.printed import outcome_of_printed

SESSION = "0b7c-session"
ENDED_AT = 1_796_000_000
TOLD = RunSettings(on_bad_report="fail", on_denied="fail", idle_timeout_seconds=300)


@dataclass(frozen=True)
class Case:
    """A run of a program: what it printed, and what is to become of it."""

    program: str
    output: list[dict[str, Any]]
    expected: dict[str, Any]
    errors: str = ""
    code: int = 0
    reason: str = "exited"


def claude(**keys: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the last line of Claude Code."""
    return {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "api_error_status": None,
        "result": "All is well.",
        "stop_reason": "end_turn",
        "session_id": SESSION,
        "total_cost_usd": 0.25,
        "usage": {
            "input_tokens": 20,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 5,
            "output_tokens": 9,
        },
        "modelUsage": {
            "large": {"inputTokens": 20, "cacheReadInputTokens": 5, "cacheCreationInputTokens": 5, "outputTokens": 9},
            "small": {"inputTokens": 10, "outputTokens": 4, "costUSD": 0.01},
        },
        "permission_denials": [],
    } | keys


def claude_error(status: int | None, words: str, **keys: Any) -> dict[str, Any]:  # noqa: ANN401
    nothing = {"usage": {"input_tokens": 0, "output_tokens": 0}, "modelUsage": {}, "total_cost_usd": 0}
    return claude(is_error=True, api_error_status=status, result=words, stop_reason="stop_sequence", **nothing, **keys)


def said(call: str, tokens: int, text: str = "I begin.", **keys: Any) -> dict[str, Any]:  # noqa: ANN401
    content = [{"type": "text", "text": text}]
    message = {"id": call, "content": content, "usage": {"input_tokens": tokens, "output_tokens": 1}}
    return {"type": "assistant", "message": message, "session_id": SESSION, **keys}


LIMIT = {"status": "rejected", "resetsAt": ENDED_AT + 3600, "rateLimitType": "five_hour"}
RETRY = {"type": "system", "subtype": "api_retry", "attempt": 7, "max_retries": 10, "error_status": 429}
WROTE = {"tool_name": "Bash", "tool_use_id": "t1", "tool_input": {"command": "echo hi > out.txt"}}
EDITED = {"tool_name": "Edit", "tool_use_id": "t2", "tool_input": {"old_string": "x", "file_path": "/w/a.py"}}

CLAUDE = {
    "a failure of which it speaks itself": Case(
        "claude",
        [
            {
                "type": "assistant",
                "message": {
                    "id": "m",
                    "model": "<synthetic>",
                    "content": [{"type": "text", "text": "API Error: 529 Overloaded"}],
                    "usage": {"input_tokens": 0, "output_tokens": 0},
                },
            },
            claude_error(529, "API Error: 529 Overloaded"),
        ],
        {
            "kind": "overloaded",
            "at_least": False,
            "usage": {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0},
        },
        code=1,
    ),
    "all calls are counted": Case(
        "claude",
        [claude()],
        {
            "status": "completed",
            "message": "All is well.",
            "session": SESSION,
            "at_least": False,
            "usage": {"input_tokens": 40, "output_tokens": 13, "cost_usd": 0.25},
        },
    ),
    "usage without models": Case(
        "claude",
        [claude(modelUsage=None)],
        {"usage": {"input_tokens": 30, "output_tokens": 9, "cost_usd": 0.25}},
    ),
    "the models count where the conversation's usage is zero": Case(
        "claude",
        [claude(usage={"input_tokens": 0, "output_tokens": 0})],
        {"usage": {"input_tokens": 40, "output_tokens": 13, "cost_usd": 0.25}},
    ),
    "denied": Case(
        "claude",
        [claude(permission_denials=[WROTE, EDITED])],
        {
            "status": "failed",
            "kind": "denied",
            "permanent": True,
            "message": "All is well.",
            "error": "2 permissions denied: Bash(echo hi > out.txt), Edit(/w/a.py)",
            "denials": ("Bash(echo hi > out.txt)", "Edit(/w/a.py)"),
        },
    ),
    "not signed in": Case(
        "claude",
        [claude_error(401, "Failed to authenticate. API Error: 401 OAuth token has expired.")],
        {
            "status": "failed",
            "kind": "auth",
            "permanent": True,
            "error": "Failed to authenticate. API Error: 401 OAuth token has expired.",
        },
        code=1,
    ),
    "a limit that is reset": Case(
        "claude",
        [{"type": "rate_limit_event", "rate_limit_info": LIMIT}, claude_error(429, "You've hit your session limit")],
        {"status": "failed", "kind": "quota", "permanent": False, "limit_ends_at": ENDED_AT + 3600},
        code=1,
    ),
    "a limit in words": Case(
        "claude",
        [claude_error(429, "You've hit your session limit \u00b7 resets 2:57am (UTC)")],
        {"kind": "quota", "limit_ends_at": datetime(2026, 11, 30, 2, 57, tzinfo=UTC).timestamp()},
        code=1,
    ),
    "no credit": Case(
        "claude",
        [claude_error(400, "Credit balance is too low")],
        {"kind": "quota", "permanent": True, "limit_ends_at": None},
        code=1,
    ),
    "overloaded": Case(
        "claude",
        [claude_error(None, "API Error: 529 Overloaded")],
        {"kind": "overloaded", "permanent": False},
        code=1,
    ),
    "refused": Case(
        "claude",
        [claude_error(None, "I cannot help with that.") | {"stop_reason": "refusal"}],
        {"status": "failed", "kind": "refused", "error": "I cannot help with that."},
        code=1,
    ),
    "killed in the middle": Case(
        "claude",
        [said("m1", 100), said("m1", 120), said("m2", 200, parent_tool_use_id="t9", text="aside")],
        {
            "status": "failed",
            "kind": "timeout",
            "message": "I begin.",
            "session": SESSION,
            "at_least": True,
            "usage": {"input_tokens": 320, "output_tokens": 2},
        },
        code=143,
        reason="timeout",
    ),
    "killed while it waits": Case(
        "claude",
        [{**RETRY, "error": "rate_limit", "session_id": SESSION}],
        {
            "kind": "timeout",
            "usage": {},
            "at_least": False,
            "session": SESSION,
            "error": "idle timeout: no output for longer than its idle_timeout of 5m "
            "(waiting after 429 rate_limit, try 7 of 10)",
        },
        code=143,
        reason="idle_timeout",
    ),
    "wrong options": Case(
        "claude",
        [],
        {
            "status": "failed",
            "kind": "config",
            "permanent": True,
            "message": None,
            "error": "exit status 1: Error: --output-format=stream-json requires --verbose",
        },
        errors="\x1b[31mError: --output-format=stream-json requires --verbose\x1b[0m\n\n",
        code=1,
    ),
    "no result at exit status 0": Case(
        "claude",
        [said("m1", 100)],
        {
            "status": "failed",
            "at_least": True,
            "usage": {"input_tokens": 100, "output_tokens": 1},
            "error": "its report cannot be used: no JSON result at the end of the standard output "
            "(result_format = claude)",
        },
    ),
    "several results": Case(
        "claude",
        [claude(result="first", permission_denials=[WROTE]), said("m1", 9), claude(permission_denials=[WROTE])],
        {
            "message": "All is well.",
            "denials": ("Bash(echo hi > out.txt)",),
            "usage": {"input_tokens": 40, "output_tokens": 13, "cost_usd": 0.25},
        },
    ),
}

ITEM = {"id": "item_1", "type": "command_execution", "command": "make", "exit_code": 0, "status": "completed"}
THREAD = {"type": "thread.started", "thread_id": SESSION}
WARNING = {"type": "item.completed", "item": {"id": "item_0", "type": "error", "message": "a warning"}}
USAGE = {"input_tokens": 50, "cached_input_tokens": 10, "output_tokens": 7, "reasoning_output_tokens": 2}


def codex_failure(words: str) -> list[dict[str, Any]]:
    again = f"Reconnecting... 1/5 ({words})"
    return [
        THREAD,
        {"type": "error", "message": again},
        {"type": "error", "message": words},
        {"type": "turn.failed", "error": {"message": words}},
    ]


def codex_said(text: str) -> dict[str, Any]:
    return {"type": "item.completed", "item": {"id": "item_2", "type": "agent_message", "text": text}}


CODEX = {
    "a turn": Case(
        "codex",
        [
            THREAD,
            WARNING,
            {"type": "item.completed", "item": ITEM},
            codex_said("one"),
            codex_said("Done."),
            {"type": "turn.completed", "usage": USAGE},
        ],
        {
            "status": "completed",
            "message": "Done.",
            "session": SESSION,
            "usage": {"input_tokens": 50, "output_tokens": 7},
        },
        errors="Reading prompt from stdin...\n",
    ),
    "declined": Case(
        "codex",
        [
            THREAD,
            {"type": "item.completed", "item": ITEM | {"status": "declined", "exit_code": -1}},
            {"type": "turn.completed", "usage": USAGE},
        ],
        {"status": "failed", "kind": "denied", "error": "1 permission denied: shell(make)"},
    ),
    "not signed in": Case(
        "codex",
        codex_failure("unexpected status 401 Unauthorized: token has expired"),
        {
            "status": "failed",
            "kind": "auth",
            "permanent": True,
            "usage": {},
            "error": "unexpected status 401 Unauthorized: token has expired",
        },
        code=1,
    ),
    "a limit in words": Case(
        "codex",
        codex_failure("You've hit your usage limit. Upgrade to Pro or try again at Dec 1st, 2026 1:54 AM."),
        {"kind": "quota", "limit_ends_at": datetime(2026, 12, 1, 1, 54).astimezone().timestamp()},
        code=1,
    ),
    "the provider's JSON as words": Case(
        "codex",
        codex_failure(json.dumps({"error": {"message": "model `x` does not exist", "code": "model_not_found"}})),
        {"kind": "config", "error": "model `x` does not exist"},
        code=1,
    ),
    "no trusted directory": Case(
        "codex",
        [],
        {"kind": "config", "permanent": True, "error": "exit status 1: Not inside a trusted directory and that."},
        errors="Reading prompt from stdin...\nNot inside a trusted directory and that.\n",
        code=1,
    ),
    "killed while it reconnects": Case(
        "codex",
        codex_failure("unexpected status 503")[:2],
        {
            "kind": "timeout",
            "usage": {},
            "error": "timeout: the run took longer than its timeout of 1h "
            "(waiting after unexpected status 503, try 1 of 5)",
        },
        code=143,
        reason="timeout",
    ),
}

TOKENS = {"input": 30, "prompt": 40, "candidates": 5, "thoughts": 2, "cached": 10, "total": 47}


def gemini_error(code: int, words: str) -> str:
    error = {"session_id": SESSION, "error": {"type": "Error", "message": words, "code": code}}
    return f"Warning: 256-color support not detected.\n{json.dumps(error, indent=2)}\n"


STREAMED: list[dict[str, Any]] = [
    {"type": "init", "session_id": SESSION, "model": "large"},
    {"type": "message", "role": "user", "content": "do it"},
    {"type": "message", "role": "assistant", "content": "I look.", "delta": True},
    {"type": "tool_use", "tool_name": "shell", "tool_id": "1", "parameters": {}},
    {"type": "message", "role": "assistant", "content": "Do", "delta": True},
    {"type": "message", "role": "assistant", "content": "ne.", "delta": True},
]


def gemini_failed(words: str) -> dict[str, Any]:
    """Return the last line of a stream that failed: its statistics know of no call that was cut off."""
    stats = {"input_tokens": 0, "output_tokens": 0}
    return {"type": "result", "status": "error", "error": {"type": "unknown", "message": words}, "stats": stats}


GEMINI = {
    "an answer": Case(
        "gemini",
        [
            {
                "session_id": SESSION,
                "response": "Done.",
                "stats": {"models": {"a": {"tokens": TOKENS}, "b": {"tokens": TOKENS}}},
            }
        ],
        {
            "status": "completed",
            "message": "Done.",
            "session": SESSION,
            "usage": {"input_tokens": 80, "output_tokens": 14},
        },
        errors="Warning: 256-color support not detected.\n",
    ),
    "a stream": Case(
        "gemini",
        [*STREAMED, {"type": "result", "status": "success", "stats": {"input_tokens": 40, "output_tokens": 7}}],
        {
            "status": "completed",
            "message": "Done.",
            "session": SESSION,
            "usage": {"input_tokens": 40, "output_tokens": 7},
        },
    ),
    "a stream that was cut off": Case(
        "gemini", STREAMED, {"status": "failed", "message": "Done.", "usage": {}, "at_least": False}
    ),
    "a stream that its provider cut off": Case(
        "gemini",
        [*STREAMED, gemini_failed("[API Error: terminated]")],
        {"kind": "overloaded", "error": "[API Error: terminated]", "usage": {}, "at_least": False},
        code=1,
    ),
    "refused in a stream, in the provider's words": Case(
        "gemini",
        [STREAMED[0], gemini_failed('[API Error: {"error": {"code": 401, "message": "token has expired"}}]')],
        {"kind": "auth", "error": "token has expired", "usage": {"input_tokens": 0, "output_tokens": 0}},
        code=145,
    ),
    "not signed in": Case(
        "gemini",
        [],
        {"kind": "auth", "permanent": True, "error": "token has expired", "session": SESSION, "usage": {}},
        errors=gemini_error(401, "token has expired"),
        code=145,
    ),
    "a limit in words": Case(
        "gemini",
        [],
        {
            "kind": "quota",
            "permanent": False,
            "limit_ends_at": ENDED_AT + 3600,
            "error": "You exceeded your current quota, please check your plan and billing details. "
            "Suggested retry after 3600s.",
        },
        errors=gemini_error(
            429,
            "You exceeded your current quota, please check your plan and billing details.\n"
            "Suggested retry after 3600s.",
        ),
        code=173,
    ),
    "not trusted": Case(
        "gemini",
        [],
        {"kind": "config", "permanent": True, "error": "exit status 55: Not running in a trusted directory"},
        errors="\x1b[31mNot running in a trusted directory\x1b[0m\n",
        code=55,
    ),
}


def opencode(kind: str, **keys: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"type": kind, "timestamp": 1, "sessionID": SESSION, **keys}


def step(reason: str) -> dict[str, Any]:
    tokens = {"input": 8, "output": 5, "reasoning": 1, "cache": {"read": 2, "write": 1}}
    return opencode("step_finish", part={"reason": reason, "tokens": tokens, "cost": 0.125})


def rejected(command: str) -> dict[str, Any]:
    error = "The user rejected permission to use this specific tool call."
    state = {"status": "error", "input": {"command": command}, "error": error}
    return opencode("tool_use", part={"tool": "bash", "callID": "c", "state": state})


OPENCODE = {
    "steps": Case(
        "opencode",
        [opencode("step_start", part={}), step("tool-calls"), opencode("text", part={"text": "Done."}), step("stop")],
        {
            "status": "completed",
            "message": "Done.",
            "session": SESSION,
            "at_least": False,
            "usage": {"input_tokens": 22, "output_tokens": 12, "cost_usd": 0.25},
        },
    ),
    "killed between steps": Case(
        "opencode",
        [step("tool-calls")],
        {"kind": "timeout", "at_least": True, "usage": {"input_tokens": 11, "output_tokens": 6, "cost_usd": 0.125}},
        code=143,
        reason="timeout",
    ),
    "not signed in": Case(
        "opencode",
        [opencode("error", error={"name": "APIError", "data": {"message": "token has expired", "statusCode": 401}})],
        {"status": "failed", "kind": "auth", "permanent": True, "error": "token has expired", "session": SESSION},
        code=1,
    ),
    "denied": Case(
        "opencode",
        [rejected("rm x"), step("stop")],
        {"status": "failed", "kind": "denied", "error": "1 permission denied: bash(rm x)"},
    ),
    "denied, which ends it": Case(
        "opencode",
        [rejected("rm x"), step("tool-calls")],
        {"status": "failed", "kind": "denied", "error": "1 permission denied: bash(rm x)"},
    ),
}

CASES = {f"{case.program}: {name}": case for cases in (CLAUDE, CODEX, GEMINI, OPENCODE) for name, case in cases.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_a_program_prints_is_understood(tmp_path: Path, case: Case) -> None:
    lines = "".join(json.dumps(line) + "\n" for line in case.output)
    settings = RunSettings(**{**vars(TOLD), "result_format": case.program})
    outcome = outcome_of_printed(
        tmp_path, lines.encode(), settings, case.errors.encode(), exit_code=case.code, reason=case.reason
    )
    assert {name: shown(outcome, name) for name in case.expected} == case.expected


def shown(outcome: Outcome, name: str) -> object:
    value = getattr(outcome, "usage_at_least" if name == "at_least" else name)
    return value.timestamp() if isinstance(value, datetime) else value


def test_a_denial_is_no_failure_where_it_is_ignored_or_the_agent_says_so(tmp_path: Path) -> None:
    output = (json.dumps(claude(permission_denials=[WROTE])) + "\n").encode()
    ignoring = RunSettings(result_format="claude", on_denied="ignore")
    outcome = outcome_of_printed(tmp_path, output, ignoring)
    assert (outcome.status, outcome.kind, len(outcome.denials)) == ("completed", None, 1)
    (tmp_path / "result.json").write_text('{"status": "completed", "message": "it did not matter"}')
    strict = RunSettings(result_format="claude", on_denied="fail")
    outcome = outcome_of_printed(tmp_path, output, strict)
    assert (outcome.status, outcome.message, len(outcome.denials)) == ("completed", "it did not matter", 1)
    assert outcome.session == SESSION
    assert outcome.usage == {"input_tokens": 40, "output_tokens": 13, "cost_usd": 0.25}


def test_what_each_model_used_is_told(tmp_path: Path) -> None:
    outcome = outcome_of_printed(tmp_path, json.dumps(claude()).encode(), RunSettings(result_format="claude"))
    assert outcome.usage_by_model["small"] == {"input_tokens": 10, "output_tokens": 4, "cost_usd": 0.01}
    assert outcome.usage_by_model["large"] == {"input_tokens": 30, "output_tokens": 9}


def test_the_last_words_of_other_programs_are_the_reason_and_no_kind(tmp_path: Path) -> None:
    outcome = outcome_of_printed(tmp_path, b"401 Unauthorized\r\n\n  \n", RunSettings(), exit_code=3)
    assert (outcome.error, outcome.kind) == ("exit status 3: 401 Unauthorized", "failed")
    assert not outcome.permanent


def test_what_a_signal_or_the_memory_ended_has_crashed(tmp_path: Path) -> None:
    for record, error in (
        ({"exit_code": None, "signal": 11}, "ended by signal 11"),
        ({"exit_code": None, "signal": 9, "oom_kills": 1}, "ended by signal 9: out of memory"),
        ({"exit_code": 137, "oom_kills": 1}, "exit status 137"),
    ):
        outcome = outcome_of_printed(tmp_path, b"", RunSettings(), **record)
        assert (outcome.error, outcome.kind) == (error, "crashed")
