"""Reading what known programs print: as it arrives, bounded, whatever it is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.agents.base import RunSettings
from daemon.agents.process.agent_report import read_report
from daemon.agents.process.formats.reader import LONGEST, Reader
from daemon.agents.process.formats.report import LONGEST_ANSWER, MOST_DENIALS
from daemon.agents.process.supervisor.listener import ANSWER, REPORT, Listener
from daemon.agents.process.supervisor.mask import Secrets
from tests.support.printed import outcome_of_printed, printed

NO_SECRETS = Secrets(())
CLAUDE = RunSettings(result_format="claude", on_bad_report="fail")
FORMATS = ("claude", "codex", "gemini", "opencode")


def line(**content: Any) -> bytes:  # noqa: ANN401
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def result(text: str = "Done.", **keys: Any) -> bytes:  # noqa: ANN401
    return line(type="result", result=text, total_cost_usd=0.5, **keys)


def said(text: str) -> bytes:
    return line(type="assistant", message={"id": "m", "content": [{"type": "text", "text": text}]})


def answer_in(folder: Path) -> str:
    return (folder / ANSWER).read_bytes().decode()


def test_the_whole_answer_is_kept_and_cut_with_a_mark(tmp_path: Path) -> None:
    for text in ("x" * (LONGEST_ANSWER - 1), "x" * 400_000, "\u00e4" * 200_000, "x\U0001f600" * 80_000):
        outcome = outcome_of_printed(tmp_path, result(text), CLAUDE)
        kept, is_cut, _ = answer_in(tmp_path).partition("\n[agentcron: the answer was cut here]\n")
        assert text.startswith(kept)
        assert (len(kept.encode()) == len(text.encode())) is not bool(is_cut)
        assert LONGEST_ANSWER - 4 <= len(kept.encode()) <= LONGEST_ANSWER
        assert outcome.message == text[:4000]


@pytest.mark.parametrize("result_format", ["none", "claude"])
def test_an_answer_that_the_agent_left_itself_is_none(tmp_path: Path, result_format: str) -> None:
    (tmp_path / ANSWER).write_text("unmasked")
    Listener(result_format).save(str(tmp_path), NO_SECRETS)
    assert not (tmp_path / ANSWER).exists()


@pytest.mark.parametrize("text", ["\u00fc\u20ac\U0001f600", "a\\u00fcb", "\x7f\u2028", 'say "{}" \\'])
def test_text_of_any_script_arrives_as_it_is(tmp_path: Path, text: str) -> None:
    for ensure_ascii in (True, False):
        data = json.dumps({"type": "result", "result": text}, ensure_ascii=ensure_ascii).encode()
        assert outcome_of_printed(tmp_path, data, CLAUDE).message == text


def test_halves_of_characters_and_broken_utf_8_are_replaced(tmp_path: Path) -> None:
    data = b'{"type": "result", "result": "a\\ud800b\xffc\\udc80d"}'
    assert outcome_of_printed(tmp_path, data, CLAUDE).message == "a\ufffdb\ufffdc\ufffdd"


def test_a_line_of_a_mebibyte_is_read_and_of_a_longer_one_its_last_result(tmp_path: Path) -> None:
    filler = LONGEST - len(said("")) + 1
    for text in ("x" * filler, "\u00e4" * (filler // 2)):
        printed(tmp_path, said(text)[: LONGEST + 1], "claude")
        assert len(answer_in(tmp_path)) > 100_000
    array = b"[" + b",".join([said("x" * 700_000).strip(), said("y" * 700_000).strip(), result().strip()]) + b"]\n"
    outcome = outcome_of_printed(tmp_path, array, CLAUDE)
    assert (outcome.status, outcome.message, outcome.usage["cost_usd"]) == ("completed", "Done.", 0.5)
    outcome = outcome_of_printed(tmp_path, said("x" * 3_000_000) + result(), CLAUDE)
    assert (outcome.status, outcome.message) == ("completed", "Done.")


@pytest.mark.parametrize("noise", [b"", b"Loaded credentials.\n", b"{\n", b"[not json]\n{}\n", b"}\n]\n", b"\xff{\n"])
@pytest.mark.parametrize("size", [1, 7, 64 * 1024])
def test_a_document_over_several_lines_is_found_among_others(noise: bytes, size: int) -> None:
    content = {"session_id": "s", "response": "Done.", "stats": {"models": {"a": {"tokens": {"prompt": 5}}}}}
    data = noise + json.dumps(content, indent=2).encode() + b"\nBye.\n"
    reader = Reader("gemini")
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
    reader.finish()
    assert (reader.report.answer, reader.report.summary()["usage"]["input_tokens"]) == ("Done.", 5)


def test_a_document_without_a_last_newline_is_read(tmp_path: Path) -> None:
    data = json.dumps(json.loads(result()), indent=2).encode()
    assert outcome_of_printed(tmp_path, data, CLAUDE).message == "Done."


def test_a_result_whose_end_was_lost_is_missing(tmp_path: Path) -> None:
    outcome = outcome_of_printed(tmp_path, said("I begin.") + result()[:-20], CLAUDE)
    assert (outcome.status, outcome.message) == ("failed", "I begin.")
    assert "no JSON result" in (outcome.error or "")


def test_denials_are_bounded(tmp_path: Path) -> None:
    denials = [{"tool_name": "Bash", "tool_input": {"command": "x" * 900}}] * 300
    outcome = outcome_of_printed(tmp_path, result(permission_denials=denials), CLAUDE)
    assert len(json.loads((tmp_path / REPORT).read_bytes())["denials"]) == MOST_DENIALS
    assert len(outcome.denials) == MOST_DENIALS
    assert max(map(len, outcome.denials)) <= 300


def test_a_secret_in_pieces_of_a_stream_is_masked(tmp_path: Path) -> None:
    said_in_pieces = b"".join(
        line(type="message", role="assistant", content=piece, delta=True) for piece in ("sesame-", "street", "!")
    )
    printed(tmp_path, said_in_pieces, "gemini", secrets=("sesame-street",))
    assert answer_in(tmp_path) == "***!"


def test_a_secret_at_the_cut_of_an_answer_is_masked(tmp_path: Path) -> None:
    text = "x" * (LONGEST_ANSWER - 10) + "sesame-street-and-more"
    pieces = (text[: LONGEST_ANSWER - 5], text[LONGEST_ANSWER - 5 :])
    output = b"".join(line(type="message", role="assistant", content=piece, delta=True) for piece in pieces)
    printed(tmp_path, output, "gemini", secrets=("sesame-street-and-more",))
    assert answer_in(tmp_path) == "x" * (LONGEST_ANSWER - 10) + "***"


def test_a_fault_in_a_reader_keeps_what_was_known(tmp_path: Path) -> None:
    listener = Listener("claude")
    listener.hear(said("I begin."), is_error=False)
    listener._reader._events_of = lambda _: 1 / 0  # type: ignore[union-attr, return-value]
    listener.hear(result() * 3, is_error=False)
    listener.save(str(tmp_path), NO_SECRETS)
    found = read_report(tmp_path, "claude", NO_SECRETS)
    assert (found.message, found.is_bad) == ("I begin.", False)
    assert found.complaint == "its output could not be read: ZeroDivisionError: division by zero"


def test_the_output_of_a_run_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "stdout.tail").write_bytes(said("I begin.") + result())
    found = read_report(tmp_path, "claude", NO_SECRETS)
    assert (found.message, found.usage, found.is_bad) == ("Done.", {"cost_usd": 0.5}, False)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"failure": [], "usage": 7, "denials": {"a": 1}}'])
def test_a_forged_report_is_no_report(tmp_path: Path, content: bytes) -> None:
    (tmp_path / REPORT).write_bytes(content)
    found = read_report(tmp_path, "claude", NO_SECRETS)
    assert (found.status, found.usage, found.denials, found.is_bad) == (None, {}, (), True)


def test_a_run_without_a_format_loads_none_and_saves_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[2] / "daemon" / "agents"
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from process.supervisor import nursery\nfrom process.supervisor.listener import Listener\n"
        "Listener('none').save(sys.argv[1], None)\n"
        "sys.exit(', '.join(name for name in sys.modules if 'formats' in name) or None)"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(tmp_path)], check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "errors", "expected"),
    [
        (b"one\ntwo\n\n  \n", b"", "two"),
        (b"out\n", b"err 1\nerr 2\n\n", "err 2"),
        (b"out\n", b"\n \x1b[0m\n", "out"),
        (b"", b"\x1b[31;1mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07\n", "red link"),
        (b"50%\r100%\r", b"", "100%"),
        (b"a\x07b\x00c\n", b"", "a b c"),
        (b"sesame-street\n", b"", "***"),
        (b"", b"x" * 5000 + b"\n", "x" * 500),
        (b"", b"", None),
    ],
)
def test_the_last_line_is_for_people(output: bytes, errors: bytes, expected: str | None) -> None:
    listener = Listener("claude")
    listener.hear(output, is_error=False)
    listener.hear(errors, is_error=True)
    assert listener.last_line(Secrets(("sesame-street",))) == expected


KEYS = ["type", "result", "message", "content", "item", "part", "error", "usage", "tokens", "stats", "models", "status"]
KEYS += ["permission_denials", "modelUsage", "rate_limit_info", "resetsAt", "id", "session_id", "text", "tool_input"]
WORDS = ["result", "assistant", "system", "api_retry", "rate_limit_event", "rejected", "item.completed", "turn.failed"]
WORDS += [
    "turn.completed",
    "error",
    "declined",
    "agent_message",
    "text",
    "tool_use",
    "step_finish",
    "message",
    "\ud800",
]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(WORDS)
shapes = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), shapes, max_size=8), max_size=5), st.sampled_from(FORMATS))
@example([{"type": "result", "usage": {"input_tokens": 10**400}, "total_cost_usd": float("inf")}], "claude")
@example([{"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": 10**400}}], "claude")
@example(
    [{"type": "item.completed", "item": {"type": []}}, {"type": "turn.failed", "error": {"message": "{" * 9}}], "codex"
)
def test_output_of_any_shape_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: list[dict[str, Any]], result_format: str
) -> None:
    folder = tmp_path_factory.mktemp("output")
    data = "\n".join(map(json.dumps, content)).encode()
    listener = printed(folder, data, result_format, data)
    assert listener._fault is None
    found = read_report(folder, result_format, NO_SECRETS)
    assert found.session is None or len(found.session) <= 200
    assert all(text.encode() for text in (found.message, found.retrying) if text)
