"""Reports of commands: numbers that cannot be used are left out, and the report says which."""

import json
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.agents.base import RunSettings, Work
from daemon.agents.process.acp_client.usage import tokens_in
from daemon.agents.process.agent_report import LONGEST_MESSAGE, AgentReport, read_report
from daemon.agents.process.outcome import _failure, outcome_of
from daemon.agents.process.records import ExitRecord
from daemon.agents.process.supervisor.mask import Secrets
from daemon.rules.reported import MOST_TOKENS
from tests.support.printed import printed

HUGE = 2**62 - 1


def report(folder: Path, content: str, result_format: str = "none") -> AgentReport:
    if result_format == "none":
        (folder / "result.json").write_text(content)
    else:
        printed(folder, content.encode(), result_format)
    return read_report(folder, result_format, Secrets(()))


def test_a_number_beyond_the_limit_is_left_out_and_named(tmp_path: Path) -> None:
    found = report(tmp_path, json.dumps({"usage": {"input_tokens": HUGE, "output_tokens": 7}}))
    assert found.usage == {"output_tokens": 7}
    assert found.complaint == f"usage.input_tokens is not a number from 0 to {MOST_TOKENS}"


def test_usage_that_is_no_object_is_named(tmp_path: Path) -> None:
    found = report(tmp_path, '{"status": "failed", "usage": [1]}')
    assert (found.status, found.usage, found.complaint) == ("failed", {}, "usage is not a JSON object")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"result": "42 files"}, "42 files"),
        ({"result": {"files": ["ü"]}}, '{"files": ["ü"]}'),
        ({"result": 0}, "0"),
        ({"message": "", "result": "x"}, "x"),
        ({"message": "said", "result": "x"}, "said"),
        ({"result": None}, None),
    ],
)
def test_a_result_without_a_message_is_what_the_run_says(tmp_path: Path, content: object, message: str | None) -> None:
    """People cannot read the file, which is the daemon's."""
    assert report(tmp_path, json.dumps(content)).message == message


def test_a_long_result_is_cut_and_its_secrets_are_masked(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"result": ["sesame-street", "x" * 900_000]}))
    found = read_report(tmp_path, "none", Secrets(("sesame-street",)))
    assert found.message is not None
    assert found.message.startswith('["***", "xxx')
    assert len(found.message) <= LONGEST_MESSAGE


@pytest.mark.parametrize(
    ("value", "seconds"), [("5", 5), ("0.5", 0.5), ("1e300", 7 * 86400), ("1" + 400 * "0", None), ("1e400", None)]
)
def test_a_wait_is_bounded(tmp_path: Path, value: str, seconds: float | None) -> None:
    found = report(tmp_path, f'{{"retry_after": {value}}}')
    assert found.retry_after == (None if seconds is None else timedelta(seconds=seconds))
    assert (found.complaint is None) is (seconds is not None)


@pytest.mark.parametrize("tokens", [HUGE, -1, "5", 10**300, [1]])
def test_no_part_of_a_sum_is_used_if_one_part_is_no_count(tmp_path: Path, tokens: object) -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": tokens, "output_tokens": 9}
    found = report(tmp_path, json.dumps({"type": "result", "result": "x", "usage": usage}), "claude")
    assert found.usage == {"output_tokens": 9}
    assert "usage.input_tokens" in (found.complaint or "")


def test_what_an_acp_agent_counts_can_be_written_as_json() -> None:
    most = int("9" * 4300)
    usage = tokens_in({"usage": {"inputTokens": most, "cachedReadTokens": most, "cachedWriteTokens": True}})
    assert json.loads(json.dumps(usage))["input_tokens"] > MOST_TOKENS


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"outputTokens": 7}, None),
        ({"inputTokens": None, "cachedReadTokens": 4}, 4),
        ({"inputTokens": 0}, 0),
        ({"inputTokens": 5.0, "cachedReadTokens": 4}, 9),
        ({"inputTokens": 5, "cachedWriteTokens": "4"}, "4"),
        ({"inputTokens": 5, "cachedWriteTokens": -4}, -4),
        ({"inputTokens": 5, "cachedWriteTokens": True}, True),
    ],
)
def test_tokens_that_an_acp_agent_does_not_report_are_unknown_and_senseless_ones_are_passed_on(
    usage: dict[str, object], tokens: object
) -> None:
    assert tokens_in({"usage": usage})["input_tokens"] == tokens


def claude_result(text: str, **keys: object) -> str:
    result = {"type": "result", "is_error": True, "result": text, "total_cost_usd": 0.5, "usage": {"output_tokens": 4}}
    return json.dumps({**result, **keys}, ensure_ascii=False)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x1c", "\f"])
def test_only_newlines_separate_the_lines_of_an_answer(tmp_path: Path, separator: str) -> None:
    """JSON may contain some of these as they are, and an agent may print them in any case."""
    text = f"API Error{separator}overloaded"
    found = report(tmp_path, '{"type": "system"}\n' + claude_result(text) + "\n", "claude")
    assert (found.status, found.usage) == ("failed", {"output_tokens": 4, "cost_usd": 0.5})
    assert found.message == text


@pytest.mark.parametrize("text", ["plain", 'a \\ b "c" }{ ][ \\', '{"type": "result"}]'])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_last_object_of_an_array_counts_whose_beginning_is_not_kept(
    tmp_path: Path, text: str, indent: int | None
) -> None:
    whole = json.dumps([{"type": "user", "message": 'x" {' * 300_000}, json.loads(claude_result(text))], indent=indent)
    found = report(tmp_path, whole + "\n", "claude")
    assert (found.status, found.message, found.usage.get("cost_usd")) == ("failed", text, 0.5)


def test_the_last_object_of_an_array_counts_that_has_too_many_values(tmp_path: Path) -> None:
    found = report(tmp_path, "[" + "{}," * 200_000 + claude_result("x") + "]", "claude")
    assert (found.status, found.usage.get("cost_usd")) == ("failed", 0.5)


def test_the_errors_of_a_result_without_text_are_its_message(tmp_path: Path) -> None:
    errors = ["No conversation found with session ID: 1", 7, "and more"]
    content = {"type": "result", "subtype": "error_during_execution", "is_error": True, "errors": errors}
    found = report(tmp_path, json.dumps(content), "claude")
    assert found.message == "error_during_execution: No conversation found with session ID: 1: and more"


def test_a_report_that_could_not_be_saved_does_not_fail_the_run() -> None:
    """The host kept it from being used, as on a full disk, not the agent."""
    rest = dict.fromkeys(field.name for field in fields(ExitRecord))
    ended = ExitRecord(**{**rest, "reason": "exited", "exit_code": 0, "complaint": "No space left on device"})  # type: ignore[arg-type]
    settings, found = RunSettings(on_bad_report="fail"), AgentReport(complaint="not JSON", is_bad=True)
    assert _failure(ended, found, settings) is None
    assert reason_of(replace(ended, complaint=None), found, settings) == "its report cannot be used: not JSON"


def reason_of(ended: ExitRecord, found: AgentReport, settings: RunSettings) -> str | None:
    failure = _failure(ended, found, settings)
    return failure.reason if failure else None


def test_a_bad_report_is_a_reason_beside_the_exit_status() -> None:
    rest = dict.fromkeys(field.name for field in fields(ExitRecord))
    ended = ExitRecord(**{**rest, "reason": "exited", "exit_code": 3})  # type: ignore[arg-type]
    found = AgentReport(complaint="not JSON", is_bad=True)
    assert reason_of(ended, found, RunSettings(on_bad_report="fail")) == (
        "exit status 3; its report cannot be used: not JSON"
    )
    assert reason_of(ended, found, RunSettings(on_bad_report="ignore")) == "exit status 3"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"status": "done", "usage": {"input_tokens": 7}},
            "part of its report was ignored: the result file has a status",
        ),
        ({"quiet": "yes"}, "its report was ignored: quiet is neither true nor false"),
        ({"status": "failed", "retry_after": "soon"}, "part of its report was ignored: retry_after is not a number"),
        ({"status": "done"}, "its report was ignored: the result file has a status"),
    ],
)
def test_a_report_of_which_something_counts_is_not_called_ignored(tmp_path: Path, content: object, words: str) -> None:
    rest = dict.fromkeys(field.name for field in fields(ExitRecord))
    ended = ExitRecord(**{**rest, "reason": "exited", "exit_code": 0, "left_over": 0})  # type: ignore[arg-type]
    work = Work(**{**dict.fromkeys(field.name for field in fields(Work)), "settings": RunSettings()})  # type: ignore[arg-type]
    message = outcome_of(ended, None, report(tmp_path, json.dumps(content)), work).message
    assert message is not None
    assert message.startswith(words)


@pytest.mark.parametrize(
    ("content", "status", "kind", "complaint"),
    [
        ({"status": "failed", "kind": "quota"}, "failed", "quota", None),
        ({"kind": "auth"}, "failed", "auth", None),
        ({"status": "completed", "kind": "quota"}, "completed", None, "kind is only of a failure"),
        ({"kind": "tired"}, None, None, "kind is not one of auth, quota, overloaded, config, refused, denied, timeout"),
        ({"status": "failed", "kind": ["quota"]}, "failed", None, "kind is not one of"),
        ({"status": "failed", "kind": None}, "failed", None, None),
    ],
)
def test_a_kind_says_that_and_how_the_work_failed(
    tmp_path: Path, content: object, status: str | None, kind: str | None, complaint: str | None
) -> None:
    found = report(tmp_path, json.dumps(content))
    assert (found.status, found.kind, found.is_bad) == (status, kind, False)
    assert found.complaint is None if complaint is None else (found.complaint or "").startswith(complaint)


@pytest.mark.parametrize(("kind", "permanent"), [("auth", True), ("config", True), ("quota", False), (None, False)])
def test_what_another_attempt_would_meet_again_is_permanent(tmp_path: Path, kind: str | None, permanent: bool) -> None:
    rest = dict.fromkeys(field.name for field in fields(ExitRecord))
    ended = ExitRecord(**{**rest, "reason": "exited", "exit_code": 1, "left_over": 0})  # type: ignore[arg-type]
    work = Work(**{**dict.fromkeys(field.name for field in fields(Work)), "settings": RunSettings()})  # type: ignore[arg-type]
    found = outcome_of(ended, None, report(tmp_path, json.dumps({"kind": kind, "retry_after": 7})), work)
    assert (found.status, found.kind, found.permanent) == ("failed", kind or "failed", permanent)
    stopped = outcome_of(replace(ended, reason="cancelled"), None, report(tmp_path, json.dumps({"kind": kind})), work)
    assert (stopped.status, stopped.kind) == ("cancelled", None)


@pytest.mark.parametrize(("tokens", "is_refusal"), [(0, True), (5, False)])
def test_only_an_agent_that_did_nothing_refuses_a_session(tokens: int, is_refusal: bool) -> None:
    rest = dict.fromkeys(field.name for field in fields(ExitRecord))
    said = {"reason": "exited", "exit_code": 1, "left_over": 0, "last_line": "Error: Session not found"}
    ended = ExitRecord(**{**rest, **said})  # type: ignore[arg-type]
    settings = RunSettings(result_format="opencode")
    work = Work(**{**dict.fromkeys(field.name for field in fields(Work)), "settings": settings, "session": "s-1"})  # type: ignore[arg-type]
    found = outcome_of(ended, None, AgentReport(usage={"input_tokens": tokens}), work)
    assert (found.session_refused is not None) is is_refusal
