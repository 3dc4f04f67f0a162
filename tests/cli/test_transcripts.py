"""What people see of a run in a known format: a transcript, whatever the agent prints."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.agents.process.formats.reader import LONGEST
from tests.support.streams import STREAMS, format_of, rendered, transcript

DROPPED = b"[agentcron: 5 bytes of output were dropped here]\n"
EVIL = "a\x1b[2J\x9b31m\x07\r\n\x85\u2028\u202e\u2066\u200f\x00z"


def line(**content: Any) -> bytes:  # noqa: ANN401
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def said(text: str, **keys: Any) -> bytes:  # noqa: ANN401
    return line(type="assistant", message={"content": [{"type": "text", "text": text}]}, **keys)


def shown(*parts: bytes, result_format: str = "claude") -> str:
    return rendered(result_format, parts)


def controls_in(text: str) -> set[str]:
    """Return what could control a terminal, hide or turn text."""
    return {one for one in text if one not in "\n\t" and unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.stem)
def test_a_recorded_stream_renders_to_its_transcript(stream: Path) -> None:
    expected = stream.with_suffix(".txt").read_text()
    assert transcript(stream) == expected
    assert transcript(stream, 1) == expected
    assert transcript(stream, 4096) == expected
    assert not controls_in(expected)


def test_there_are_streams_of_every_format() -> None:
    assert len(STREAMS) >= 50
    assert {format_of(stream) for stream in STREAMS} == {"claude", "codex", "gemini", "opencode"}
    assert sum(stream.stat().st_size for stream in STREAMS) < 100_000


def _with_texts(value: Any, text: str) -> Any:  # noqa: ANN401 - any JSON
    """Return a value with a text put into each of its texts, except those that say what it is."""
    if isinstance(value, dict):
        kept = ("type", "role", "subtype", "status")
        return {key: one if key in kept else _with_texts(one, text) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_texts(one, text) for one in value]
    return f"{text}{value}{text}" if isinstance(value, str) else value


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.stem)
def test_no_control_character_gets_through_any_field(stream: Path) -> None:
    for printed in stream.read_bytes().splitlines():
        try:
            content = json.loads(printed)
        except ValueError:
            content = None
        changed = printed + EVIL.encode() if content is None else json.dumps(_with_texts(content, EVIL)).encode()
        text = shown(changed + b"\n", b"\xff\xfe\x9b" + EVIL.encode(), result_format=format_of(stream))
        assert not controls_in(text), printed


@given(st.lists(st.one_of(st.binary(), st.text().map(said), st.just(DROPPED)), max_size=8))
def test_nothing_that_is_printed_is_a_fault_or_gets_through(parts: list[bytes]) -> None:
    for result_format in ("claude", "codex", "gemini", "opencode"):
        assert not controls_in(shown(*parts, result_format=result_format))


def test_what_is_no_object_of_the_format_is_shown_as_it_is() -> None:
    text = b'plain\n\n\ttabbed\n[INFO] {x}\n{"level": 1}\n{\n[1, 2]\n}\n{"type": "other"}\n{"type": "assis\n'
    assert shown(text) == text.decode()


def test_the_streams_may_be_mixed_in_one_line() -> None:
    mixed = b"half a line" + said("One.")[:-1] + said("Two.")[:-1] + b"a warning\n"
    assert shown(mixed) == "half a line\n\nOne.\n\nTwo.\n\na warning\n"


def test_a_line_of_the_other_stream_between_words_does_not_glue() -> None:
    parts = [line(type="message", role="assistant", content=text, delta=True) for text in ("Al", "l is", " well.")]
    assert shown(*parts, result_format="gemini") == "All is well.\n"
    assert shown(parts[0], b"Oh\n", *parts[1:], result_format="gemini") == "Al\n\nOh\n\nl is well.\n"


def test_a_line_that_is_too_long_is_counted_and_the_result_at_its_end_is_shown() -> None:
    array = b"[" + b",".join([said("x" * 2 * LONGEST).strip(), line(type="result", result="Done.").strip()]) + b"]\n"
    assert shown(array, said("On.")) == "[a line of 2.0 MiB is not shown; --raw shows it]\n\nDone.\n\nOn.\n"
    assert shown(said("x" * LONGEST), said("On.")) == "[a line of 1.0 MiB is not shown; --raw shows it]\n\nOn.\n"


def test_a_long_text_of_another_program_is_shown_whole() -> None:
    text = b"x" * (3 * LONGEST) + b'{"type": "result", "result": "forged"}\n'
    parts = [text[at : at + 65536] for at in range(0, len(text), 65536)]
    assert shown(*parts, said("On.")) == f"{text.decode()}\nOn.\n"


def test_a_long_part_of_a_line_beside_what_was_dropped_is_counted() -> None:
    parts = said("x" * 9000)
    cut = shown(parts[:6000] + b"\n" + DROPPED + parts[3000:] + said("On."))
    assert cut.splitlines() == [
        "[a line of 5.9 KiB is not shown; --raw shows it]",
        DROPPED.decode().strip(),
        "[a line of 5.9 KiB is not shown; --raw shows it]",
        "",
        "On.",
    ]


def test_a_long_text_is_cut_with_a_mark() -> None:
    text = shown(said("y" * 400_000))
    assert text.count("y") == 256 * 1024 + 1
    assert text.endswith("\n\n[the rest of this text is not shown; --raw shows it]\n")


def test_the_output_of_a_command_is_shown_apart_if_others_came_before() -> None:
    def use(number: int) -> bytes:
        part = {"type": "tool_use", "id": str(number), "name": "Bash", "input": {"command": f"echo {number}"}}
        return line(type="assistant", message={"content": [part]})

    def result(number: int) -> bytes:
        part = {"type": "tool_result", "tool_use_id": str(number), "content": f"it was {number}"}
        return line(type="user", message={"content": [part]})

    uses = [use(number) for number in range(300)]
    text = shown(*uses, result(0), result(299), result(298))
    assert text.splitlines()[300:] == ["  it was 299", "$ echo 298 (result)", "  it was 298"]
