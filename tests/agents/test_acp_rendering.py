"""What the client of acp agents shows: bounded, masked, and nothing twice."""

from typing import Any

import pytest

from daemon.agents.process.acp_client import tool_calls
from daemon.agents.process.acp_client.rendering import Rendering
from daemon.agents.process.acp_client.result import SessionResult
from daemon.agents.process.acp_client.tool_calls import ToolCalls
from daemon.agents.process.supervisor.mask import Secrets

KEY = "sesame-street"


@pytest.fixture
def calls() -> ToolCalls:
    return ToolCalls(Secrets([KEY]))


@pytest.fixture
def rendering(calls: ToolCalls) -> Rendering:
    return Rendering(Secrets([KEY]), calls)


def update(text: str = "", number: str = "c", **keys: object) -> dict[str, Any]:
    content = {"content": [{"type": "content", "content": {"type": "text", "text": text}}]} if text else {}
    return {"sessionUpdate": "tool_call_update", "toolCallId": number, **content, **keys}


def shown(rendering: Rendering, capsysbinary: pytest.CaptureFixture[bytes], *updates: dict[str, Any]) -> str:
    for one in updates:
        rendering.update(one)
    return capsysbinary.readouterr().out.decode()


def test_an_update_without_news_shows_nothing(rendering: Rendering, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    first = update("one\n", title="Look", kind="read", status="completed")
    assert shown(rendering, capsysbinary, first) == "[tool] Look (read, completed)\n  one\n"
    assert shown(rendering, capsysbinary, first, update(status="completed"), update("one\n")) == ""


def test_a_line_goes_on_where_it_ended_unless_something_else_was_shown(
    rendering: Rendering, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    thought = {"sessionUpdate": "agent_thought_chunk", "content": {"text": "hm"}}
    updates = [update("a", title="T"), update("ab\n\nc"), thought, update("ab\n\ncd")]
    assert shown(rendering, capsysbinary, *updates) == "[tool] T\n  ab\n\n  c\n[thought] hm\n[tool] T\n  d"


def test_another_output_in_place_of_the_first_is_shown_whole(
    rendering: Rendering, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert shown(rendering, capsysbinary, update("one\n"), update("two and more\n")).endswith("  one\n  two and more\n")


def test_a_long_output_is_cut_once_with_a_note_and_without_half_a_secret(
    rendering: Rendering, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = "x" * 15_995 + KEY + "y" * 5000
    output = shown(rendering, capsysbinary, update(text), update(text + "more"), update("other" * 5000))
    assert output == f"[tool] c\n  {'x' * 15_995}***yy\n  [the rest of this output is not shown]\n"


def test_only_the_newest_calls_are_remembered(
    calls: ToolCalls,
    rendering: Rendering,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tool_calls, "_MOST_CALLS", 3)
    output = shown(rendering, capsysbinary, *(update("one\n", str(number), kind="read") for number in range(5)))
    assert output.count("one") == 5
    assert shown(rendering, capsysbinary, update("one\n", "4")) == ""
    assert calls.find({"toolCallId": "4"}).kind == "read"
    assert calls.find({"toolCallId": "0"}).kind == ""
    assert len(calls._calls) == 3


def test_rejections_are_kept_before_permissions_that_were_given() -> None:
    result = SessionResult()
    for number in range(150):
        result.note_permission(str(number), "reject_once" if number % 15 == 14 else "allow_once")
    rejected = [entry["asked"] for entry in result.permissions if entry["answer"] == "reject_once"]
    assert rejected == [str(number) for number in range(150) if number % 15 == 14]
    assert (len(result.permissions), result.more_permissions) == (99, 51)
