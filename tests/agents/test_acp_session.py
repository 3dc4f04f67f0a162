"""A session with an agent that behaves as the adapters of real programs do: what is chosen, shown, counted and said."""

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.agents.process.agent_report import read_report
from daemon.agents.process.supervisor.mask import Secrets
from daemon.model import FailureKind
from tests.support.acp_client import PLAIN, SDK, hold, hold_with


def said(result: dict[str, Any]) -> tuple[str, str, str | None]:
    return result["status"], result["message"], result.get("kind")


@pytest.mark.parametrize("behaviour", ["lists", "options", "fallback"])
def test_mode_and_model_are_set_in_each_way_that_agents_offer(tmp_path: Path, behaviour: str) -> None:
    assert hold(tmp_path, behaviour).result["message"] == "read-only small"
    held = hold(tmp_path, behaviour, mode="auto", model="large")
    assert said(held.result) == ("completed", "auto large", None)


@pytest.mark.parametrize("behaviour", ["lists", "options", "fallback"])
def test_a_mode_that_is_not_offered_fails_with_those_that_are(tmp_path: Path, behaviour: str) -> None:
    held = hold(tmp_path, behaviour, mode="yolo")
    reason = "mode = 'yolo': the agent does not offer it; it offers read-only, auto"
    assert said(held.result) == ("failed", reason, "config")
    assert held.code == 1


def test_a_model_fails_where_none_can_be_chosen(tmp_path: Path) -> None:
    reason = "model = 'large': the agent lets nobody choose a model; remove the key"
    assert said(hold(tmp_path, "none", model="large").result) == ("failed", reason, "config")


@pytest.mark.parametrize(
    ("data", "cause", "kind"),
    [
        ("other", ": unexpected status 400 Bad Request: the prompt is empty", None),
        ("unauthorized", ": unexpected status 400 Bad Request: the prompt is empty", "auth"),
        ("usage_limit_exceeded", ": unexpected status 400 Bad Request: the prompt is empty", "quota"),
        ('"in plain words"', ": in plain words", None),
        ('{"details": "as the SDK does"}', ": as the SDK does", None),
        ('{"error": {"message": "deeper"}}', ": deeper", None),
        ('{"message": "Internal error"}', "", None),
        ('{"codex_error_info": ["x"], "message": 5}', "", None),
        ("[1]", "", None),
    ],
)
def test_the_cause_in_the_data_of_an_error_is_the_reason(
    tmp_path: Path, data: str, cause: str, kind: str | None
) -> None:
    held = hold(tmp_path, "cause", data)
    assert said(held.result) == ("failed", f"the agent failed at session/prompt: Internal error (-32603){cause}", kind)


def test_a_daemon_of_another_version_is_to_be_restarted(tmp_path: Path) -> None:
    """The package may be upgraded while an older daemon still starts runs."""
    held = hold(tmp_path, "lists", unknown_option=True)
    assert said(held.result) == ("failed", "agentcron was upgraded under its daemon; restart the daemon", None)


def test_who_is_not_logged_in_learns_how(tmp_path: Path) -> None:
    status, reason, kind = said(hold(tmp_path, "login").result)
    assert (status, kind) == ("failed", "auth")
    assert reason == (
        "the agent failed at session/new: Authentication required (-32000); set PLAIN_API_KEY in env or "
        'log it in once by hand with "Log in with Plain" (Run `plain login` in a terminal) or '
        f"run `{' '.join(PLAIN)} login --login` once by hand"
    )


def test_an_agent_that_ends_early_is_quoted(tmp_path: Path) -> None:
    held = hold(tmp_path, "dies")
    reason = "the agent ended with exit status 1 before it answered initialize: plain: no such config file"
    assert said(held.result) == ("failed", reason, None)


def test_tokens_are_counted_where_gemini_reports_them(tmp_path: Path) -> None:
    assert hold(tmp_path, "quota").result["usage"] == {"input_tokens": 2000, "output_tokens": 100}


def test_what_is_known_of_a_session_that_was_cut_off_is_at_least_that(tmp_path: Path) -> None:
    held = hold(tmp_path, "cut", "9")
    reason = "the agent ended by signal 9 before it answered session/prompt"
    assert said(held.result) == ("failed", reason, "crashed")
    assert (held.result["usage"], held.result["usage_at_least"]) == ({"cost_usd": 0.75}, True)
    report = read_report(tmp_path, "none", Secrets(()))
    assert (report.kind, report.session, report.usage_at_least) == (FailureKind.CRASHED, "s-1", True)


def test_the_output_of_a_tool_is_shown_once_while_it_grows(tmp_path: Path) -> None:
    held = hold(tmp_path, "growing")
    assert [line for line in held.lines if not line.startswith("[")] == [
        *(f"  line {number} of a build" for number in range(200)),
        "Done.",
    ]
    assert [line for line in held.lines if line.startswith("[")] == [
        "[tool] bash (execute, pending)",
        "[tool] make (in_progress)",
        "[tool] make (completed)",
    ]
    assert held.result["message"] == "Done."


def test_messages_are_apart_and_the_last_one_counts(tmp_path: Path) -> None:
    held = hold(tmp_path, "messages")
    assert held.lines == ["A warning.", "The answer.", "And more."]
    assert held.result["message"] == "And more."


def test_standard_error_begins_at_the_start_of_a_line_and_so_do_words_after_it(tmp_path: Path) -> None:
    held = hold(tmp_path, "errors")
    assert held.lines == ["One, ", "a warning", "and its second li", "two"]
    assert held.result["message"] == "One, two"


RULES = {"read": "allow", "edit": "reject", "other": "allow", "think": "reject", "*": "reject"}


def test_permissions_are_answered_by_the_kind_of_the_tool(tmp_path: Path) -> None:
    held = hold(tmp_path, "kinds", "read edit execute unnamed invented", permissions=RULES)
    answers = dict(line.split(": ") for line in held.lines if not line.startswith("["))
    assert answers == {
        "read": "allow",
        "edit": "reject",  # its kind was told when the call began
        "execute": "reject",
        "unnamed": "allow",
        "invented": "reject",
    }
    asked = [entry["asked"] for entry in held.result["permissions"]]
    assert asked == ["Do read", "Edit a file", "Do execute", "Do unnamed", "Do invented"]


def test_a_request_that_cannot_be_rejected_is_recorded_as_a_rejection(tmp_path: Path) -> None:
    held = hold(tmp_path, "kinds", "think", permissions=RULES)
    assert "think: cancelled" in held.lines
    [entry] = held.result["permissions"]
    assert entry == {"asked": "Do think", "answer": "reject (no option to reject was offered)"}


def test_a_session_is_continued_without_telling_or_counting_its_past_again(tmp_path: Path) -> None:
    held = hold(tmp_path, "load", session="s-1")
    assert held.lines == ["and so on"]
    assert (held.result["session"], held.result["usage"]) == ("s-1", {"cost_usd": 0.25})
    assert "session_refused" not in held.result


def test_requests_are_as_the_schema_of_the_protocol_has_them(tmp_path: Path) -> None:
    servers = [
        {"name": "files", "command": "sh", "args": [], "env": [{"name": "A", "value": "b"}]},
        {"type": "http", "name": "docs", "url": "http://x", "headers": [{"name": "A", "value": "b"}]},
        {"type": "sse", "name": "news", "url": "http://x", "headers": []},
    ]
    options = {"session": "s-9", "mode": "code", "model": "large", "mcp_servers": servers}
    held = hold_with(SDK, tmp_path, "setup", **options)
    assert len(held.lines) == 1
    chosen, seen = json.loads(held.result["message"])
    assert chosen == {"the-mode of s-9": "code", "the-model of s-9": "large"}
    assert seen == ["McpServerStdio files", "HttpMcpServer docs", "SseMcpServer news"]


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("load", "the agent failed at session/load: Resource not found (-32002)"),
        ("lists", "the agent does not offer session/load"),
    ],
)
def test_a_session_that_cannot_be_continued_is_replaced_by_a_new_one(tmp_path: Path, behaviour: str, why: str) -> None:
    held = hold(tmp_path, behaviour, session="s-0")
    assert held.lines[0] == f"[session] the last one cannot be continued: {why}"
    assert (held.result["status"], held.result["session"]) == ("completed", "s-1")
    assert held.result["session_refused"] == why


def test_servers_are_passed_on_with_the_paths_of_their_programs(tmp_path: Path) -> None:
    program = {"name": "files", "command": "sh", "args": ["-c", "x"], "env": [{"name": "A", "value": "b"}]}
    url = {"type": "http", "name": "docs", "url": "https://docs.example/mcp", "headers": []}
    held = hold(tmp_path, "servers", mcp_servers=[program, url])
    [[first, second], inherits_options] = json.loads(held.result["message"])
    assert first["command"] in {"/usr/bin/sh", "/bin/sh"}
    assert {**first, "command": "sh"} == program
    assert second == url
    assert not inherits_options


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ({"command": "no-such-server"}, "there is no program 'no-such-server' in PATH"),
        ({"command": "/no/such"}, "there is no program '/no/such'"),
        ({"type": "sse", "url": "http://x"}, "the agent takes no MCP server over sse, only a command and http"),
    ],
)
def test_a_server_that_the_agent_cannot_use_fails_for_good(tmp_path: Path, server: dict[str, Any], reason: str) -> None:
    held = hold(tmp_path, "servers", mcp_servers=[{"name": "a", **server}])
    assert said(held.result) == ("failed", f"mcp_servers.a: {reason}", "config")


def test_secrets_of_servers_are_masked_in_the_result(tmp_path: Path) -> None:
    server = {"name": "a", "command": "sh", "args": [], "env": [{"name": "KEY", "value": "sesame-street"}]}
    held = hold(tmp_path, "servers", mcp_servers=[server], secret_values=["sesame-street"])
    assert '"value": "***"' in held.result["message"]
