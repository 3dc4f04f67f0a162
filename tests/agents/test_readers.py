"""Readers of what agents and peers send: JSON of any shape is read, or refused with a reason."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.agents.process.acp_client.result import SessionResult, write_result
from daemon.agents.process.agent_report import LONGEST_MESSAGE, AgentReport, read_report
from daemon.agents.process.supervisor import untrusted_json
from daemon.agents.process.supervisor.mask import Secrets
from daemon.agents.process.supervisor.untrusted_json import DEEPEST, MOST_VALUES, UntrustedJsonError
from daemon.agents.remote.a2a_card import Interface, interface_of
from daemon.agents.remote.a2a_task import RemoteTask, words_of
from daemon.agents.remote.agentex_reply import Reply
from daemon.agents.remote.json_rpc import AnswerError, result_of
from daemon.agents.remote.transcript import Transcript
from daemon.agents.remote.usage import usage_in
from daemon.model import RunStatus
from daemon.rules.reported import usage_of
from daemon.runs.hook_calls import _masked as masked_report
from tests.support.configs import one_agent
from tests.support.daemon_process import StartDaemon
from tests.support.printed import printed
from tests.support.runs import ended
from tests.support.shapes import objects, shapes

NO_SECRETS = Secrets(())


def check(report: AgentReport) -> None:
    """Check that a report can be stored."""
    assert report.status in {None, RunStatus.COMPLETED, RunStatus.FAILED}
    assert report.message is None or (len(report.message) <= LONGEST_MESSAGE and report.message.encode())
    assert usage_of(report.usage) == (report.usage, [])


@pytest.mark.parametrize("status", [[], {}, 5, True, 0, 1.5, "cancelled", ["completed"], ""])
def test_a_status_of_any_type_leaves_the_outcome_to_the_exit_status(tmp_path: Path, status: object) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"status": status, "message": "done"}))
    report = read_report(tmp_path, "none", NO_SECRETS)
    assert (report.status, report.message) == (None, "done")
    assert report.complaint == 'the result file has a status other than "completed" and "failed"'


def test_a_status_that_is_a_list_fails_the_run_with_the_reason(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("""echo '{"status": [], "message": "done"}' > $AGENTCRON_RESULT"""))
    run = ended(daemon)
    assert (run["status"], run["message"]) == ("failed", "done")
    assert "has a status other than" in run["error"]
    assert "Traceback" not in daemon.log_text()


@given(objects("status", "message", "usage", "retry_after", "permissions", "asked", "answer", "input_tokens"))
@example({"retry_after": 10**4000, "usage": {"input_tokens": 10**4000}})
def test_a_result_file_of_any_shape_is_read(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    folder = tmp_path_factory.mktemp("report")
    with contextlib.suppress(ValueError):  # an integer too long for Python's own JSON
        (folder / "result.json").write_text(json.dumps(content))
    check(read_report(folder, "none", NO_SECRETS))


@given(
    st.lists(objects("type", "result", "subtype", "is_error", "usage", "input_tokens", "total_cost_usd"), max_size=4)
)
def test_a_result_on_the_standard_output_of_any_shape_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("report")
    lines = [json.dumps({"type": "result", **one}) for one in content]
    for text in ("\n".join(lines), json.dumps(content), *lines):
        printed(folder, text.encode(), "claude")
        check(read_report(folder, "claude", NO_SECRETS))


@given(
    objects(
        "url",
        "supportedInterfaces",
        "additionalInterfaces",
        "protocolBinding",
        "protocolVersion",
        "tenant",
        "preferredTransport",
        "transport",
        "securitySchemes",
        "apiKeySecurityScheme",
        "type",
        "in",
        "name",
    )
)
@example({"url": "/x", "securitySchemes": {"a": {"type": [], "in": {}}}})
def test_an_agent_card_of_any_shape_is_read_or_refused(card: dict[str, Any]) -> None:
    for has_key in (False, True):
        with contextlib.suppress(AnswerError):
            assert isinstance(interface_of(card, "http://h:1/card.json", has_key=has_key), Interface)


@given(
    objects(
        "task",
        "message",
        "id",
        "status",
        "state",
        "parts",
        "artifacts",
        "history",
        "role",
        "text",
        "data",
        "file",
        "name",
        "metadata",
        "usage",
        "input_tokens",
    )
)
def test_a_task_of_any_shape_is_read_or_refused(answer: dict[str, Any]) -> None:
    words_of(answer)
    usage_of(usage_in(answer, answer.get("message")))
    with contextlib.suppress(AnswerError):
        task = RemoteTask.in_answer(answer)
        if task is not None and task.is_over:
            assert isinstance(task.output, str)
            assert isinstance(task.outcome.message, str | None)
            usage_of(task.usage)


@given(objects("jsonrpc", "id", "error", "result", "code", "message", "data"))
def test_an_answer_of_any_shape_is_read_or_refused(answer: dict[str, Any]) -> None:
    with contextlib.suppress(AnswerError):
        assert isinstance(asyncio.run(result_of(json.dumps(answer).encode(), "1")), dict)


@settings(max_examples=50)
@given(
    st.lists(
        objects("type", "index", "content", "delta", "text_delta", "summary", "name", "arguments", "data"), max_size=5
    )
)
def test_updates_of_any_shape_are_read(tmp_path_factory: pytest.TempPathFactory, updates: list[dict[str, Any]]) -> None:
    async def read() -> None:
        reply = Reply(Transcript(tmp_path_factory.mktemp("reply"), NO_SECRETS))
        for update in updates:
            reply.take(update)
        assert isinstance(reply.last_message, str | None)
        usage_of(reply.usage)

    asyncio.run(read())


def test_a_result_of_any_shape_that_the_agent_wrote_itself_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    monkeypatch.setenv("AGENTCRON_RESULT", str(path))
    for own in ('{"usage": [], "status": {}}', "[" * 5000, "[]", "5", "\x00x", ""):
        path.write_text(own)
        write_result(SessionResult(message="done"))
        check(read_report(tmp_path, "none", NO_SECRETS))
        path.unlink()


@given(shapes("key", "text"), st.none() | st.text(max_size=5), st.sampled_from(["completed", "failed"]))
@example("\ud800", "\ud800", "failed")
def test_a_hook_call_of_any_shape_can_be_stored(
    result: object, error: str | None, status: Literal["completed", "failed"]
) -> None:
    report = masked_report(Secrets(["text-of-a-secret"]), status, result, error)
    json.loads(report.document)
    assert all(text.encode(errors="strict") for text in (report.outcome.message, report.outcome.error) if text)


# bounds


def parsed(data: bytes | str) -> Any:  # noqa: ANN401
    return untrusted_json.parse(data if isinstance(data, bytes) else data.encode())


@given(shapes("a", "b"))
def test_json_is_parsed_as_python_does(value: object) -> None:
    text = json.dumps(value)
    assert repr(untrusted_json.parse(text.encode(), allow_nan=True)) == repr(json.loads(text))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_takes_for_json_is_refused_of_peers_and_accepted_of_result_files(
    tmp_path: Path, word: str
) -> None:
    with pytest.raises(UntrustedJsonError, match=f"{word} is not JSON"):
        parsed(word)
    (tmp_path / "result.json").write_text(f'{{"message": "done", "usage": {{"cost_usd": {word}}}}}')
    report = read_report(tmp_path, "none", NO_SECRETS)
    assert (report.message, report.usage) == ("done", {})


DEEP: list[tuple[Callable[[int], str], str]] = [
    (lambda depth: "[" * depth + "]" * depth, "arrays"),
    (lambda depth: '{"a":' * depth + "5" + "}" * depth, "objects"),
    (lambda depth: '[{"a":' * (depth // 2) + "5" + "}]" * (depth // 2), "both"),
]


@pytest.mark.parametrize("make", [make for make, _ in DEEP], ids=[name for _, name in DEEP])
@pytest.mark.parametrize("filler", ["", "x" * 300_000], ids=["small", "large"])
def test_depth_is_bounded(make: Callable[[int], str], filler: str) -> None:
    def document(depth: int) -> str:
        return f'["{filler}", "[[{{{{\\"[", {make(depth - 1)}]' if depth > 1 else make(depth)

    parsed(document(DEEPEST - 1))
    for depth in (DEEPEST + 2, 100_000):
        with pytest.raises(UntrustedJsonError, match="nested more than 100 levels deep"):
            parsed(document(depth))


@pytest.mark.parametrize("one", ["[]", "{}", "1", '"a"', '{"a":1}', '"]}"'])
def test_the_number_of_values_is_bounded(one: str) -> None:
    size = 2 if one == '{"a":1}' else 1
    parsed("[" + ",".join([one] * (MOST_VALUES // (2 * size) - 1)) + "]")
    with pytest.raises(UntrustedJsonError, match="more than 100000 values"):
        parsed("[" + ",".join([one] * (MOST_VALUES + 2)) + "]")


def test_brackets_and_commas_in_a_string_are_no_values() -> None:
    text = 'so, [then] {and} \\"on\\", ' * 20_000
    assert len(parsed(f'["{text}", 1]')[0]) == len(json.loads(f'"{text}"'))


@pytest.mark.parametrize("text", ['"', '"\\', '["a', '["' + "\\" * 1_000_001, "[" * 101 + '"x\\"', "", "{", "\x00"])
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(UntrustedJsonError):
        parsed(text)


@pytest.mark.parametrize("data", ['{"a": 1}'.encode("utf-16"), '"x"'.encode("utf-32"), b'"\xff"'])
def test_what_is_not_utf_8_is_refused(data: bytes) -> None:
    with pytest.raises(UntrustedJsonError, match="is not JSON"):
        parsed(data)


def test_a_byte_order_mark_is_skipped() -> None:
    assert parsed('{"a": 1}'.encode("utf-8-sig")) == {"a": 1}
