"""Masking of secrets: in text, in JSON of any form, across chunks, and before a text is cut."""

import json
import random
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.agents.process.supervisor.mask import Mask, Secrets, _Plain, _plain_text

VALUE = "Sésame/open=\"Sesame\"\\n'ever'"
SHORT = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x2FF, exclude_categories=("Cc", "Cs"))
values = st.text(PRINTABLE | st.sampled_from('\\/"=\n\t😀'), min_size=8, max_size=30).filter(
    lambda value: value.strip()
)
texts = st.text(st.characters(codec="utf-8"), max_size=20)


def escaped(text: str, rng: random.Random) -> str:
    """Return a string of JSON for a text, each character in one of the forms that JSON allows."""
    parts = []
    for character in text:
        units = [
            character.encode("utf-16-be")[at : at + 2]
            for at in range(0, 2 * len(character.encode("utf-16-be")) // 2, 2)
        ]
        forms = ["".join(f"\\u{unit.hex()}" for unit in units), "".join(f"\\u{unit.hex().upper()}" for unit in units)]
        if character in SHORT:
            forms.append("\\" + SHORT[character])
        if character not in '"\\' and character >= " ":
            forms.append(character)
        parts.append(rng.choice(forms))
    return '"' + "".join(parts) + '"'


def streamed(secrets: Secrets, data: bytes, cuts: list[int]) -> bytes:
    """Return what a mask shows of data that comes in pieces."""
    mask, at, shown = Mask(secrets), 0, b""
    for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        shown += mask.feed(data[at:cut])
        at = cut
    return shown + mask.flush()


@given(values, texts, texts, st.integers(1, 3), st.randoms(use_true_random=False), st.lists(st.integers(0, 10_000)))
@example(VALUE, "a\\", "\\", 2, random.Random(1), [10, 11, 12])
@example("network/x=", "C:\\", "n", 1, random.Random(2), [])
@example("ends-with\\", "", '"', 1, random.Random(3), [])
@example("00000000", "@", "", 2, random.Random(0), [10])  # an escape before it ends as it begins
def test_a_value_is_found_in_json_however_it_is_escaped_nested_and_cut(
    value: str, before: str, after: str, levels: int, rng: random.Random, cuts: list[int]
) -> None:
    document = escaped(before + value + after, rng)
    for _ in range(levels - 1):
        document = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    shown = streamed(Secrets([value]), document.encode(), cuts).decode()
    assert value not in shown
    for _ in range(levels):
        shown = json.loads(shown)  # it is still JSON
        assert value not in shown


@given(values, texts, texts, st.lists(st.integers(0, 10_000)))
def test_a_value_is_found_as_it_is_however_it_is_cut(value: str, before: str, after: str, cuts: list[int]) -> None:
    shown = streamed(Secrets([value]), (before + value + after).encode(), cuts)
    assert value.encode() not in shown
    if "\n" not in value:  # else its lines are found before the whole
        assert shown == streamed(Secrets([value]), (before + value + after).encode(), [])


@given(st.binary(max_size=200), st.lists(st.integers(0, 10_000)))
def test_nothing_else_is_changed(data: bytes, cuts: list[int]) -> None:
    assert streamed(Secrets(["a value that is nowhere"]), data, cuts) == data
    assert streamed(Secrets([]), data, cuts) == data


@pytest.mark.parametrize(
    "text",
    ["Sesame", "\\u0053esame", "Ses\\u0061me", '{"a": "\\\\u0053esame"}', "\\u0053\\u0065\\u0073\\u0061\\u006D\\u0065"],
)
def test_the_forms_of_a_letter(text: str) -> None:
    assert "esame" not in Secrets(["Sesame"]).masked(text)


@pytest.mark.parametrize("backslashes", [1, 3, 7, 15])
def test_json_within_json(backslashes: int) -> None:
    assert Secrets(["open/Sesame"]).masked(f"to open{chr(92) * backslashes}/Sesame.") == "to ***."


def test_text_that_other_escapes_stand_beside_remains() -> None:
    data = '{"path": "C:\\\\new", "said": "\\u00e9t\\u00e9 \\"Sesame\\" \\n"}'
    assert Secrets(["Sesame"]).masked(data) == data.replace("Sesame", "***")


def test_what_only_looks_like_the_beginning_of_an_escape_remains_json() -> None:
    for value, text in (
        ("new-secret", '"a\\new-secret"'),
        ("0053secret", '"\\u0053secret"'),
        ("b/secret", '"\\b/secret"'),
    ):
        shown = Secrets([value]).masked(text)
        assert "secret" not in json.loads(shown)


def test_keys_strings_and_numbers_of_a_value_are_masked_and_nothing_else() -> None:
    secrets = Secrets(["Sesame", "12345678"])
    found = secrets.masked_value({"Sesame": ["Sesame", 12345678, 1234567, None, True], "b": {"c": "d"}})
    assert found == {"***": ["***", "***", 1234567, None, True], "b": {"c": "d"}}
    assert secrets.masked_value([-12345678, 12345678.0, 1.2345678e7, 0.5]) == ["-***", "***.0", "***.0", 0.5]
    assert Secrets(["completed-by-me"]).masked_value({"status": "completed"}) == {"status": "completed"}


@pytest.mark.parametrize("most", range(1, 40))
def test_a_text_is_masked_before_it_is_cut(most: int) -> None:
    shown = Secrets(["0123456789abcdef"]).brief("say 0123456789abcdef again", most)
    assert shown == "say *** again"[:most]


def test_a_secret_that_somebody_else_cut_is_masked_at_the_end() -> None:
    secrets = Secrets(["0123456789abcdef", "other"])
    assert secrets.masked("say 0123456789ab") == "say ***"
    assert secrets.masked("say 0123\\u0034567") == "say ***"
    assert secrets.masked("say 012") == "say 012"
    assert secrets.masked("each on") == "each on"


def test_lines_of_a_value_are_secret_too_unless_they_are_short() -> None:
    secrets = Secrets(["-----BEGIN-----\n0123456789\n}\n"])
    assert secrets.masked('"0123456789\\n}"') == '"***\\n}"'
    assert secrets.masked(json.dumps("-----BEGIN-----\n0123456789\n}\n")) == '"***"'


def test_a_flood_of_backslashes_is_passed_on() -> None:
    mask, shown = Mask(Secrets(["Sesame"])), 0
    for _ in range(20):
        shown += len(mask.feed(b"\\" * 10_000))
    assert shown + len(mask.flush()) == 200_000
    assert len(mask.feed(b"\\" * 100_000)) > 99_000


def cpu_time(text: bytes) -> float:
    """Return the seconds of the processor that masking a megabyte of a repeated text takes, the least of three."""
    data, seconds = text * (1_000_000 // len(text)), []
    for _ in range(3):
        mask, began = Mask(Secrets(["Sesame"])), time.process_time()
        mask.feed(data)
        seconds.append(time.process_time() - began)
    return min(seconds)


def test_backslashes_everywhere_cost_less_than_codes_everywhere() -> None:
    assert cpu_time(b"a\\") < cpu_time(b"\\u0061")


@given(
    st.lists(
        st.sampled_from(
            [b"\\", b"\\" * 64, b"\\" * 65, b"u", b"u005c", b"\\u0061", b"\\ud83d", b"\\uDE00", b"a", b"\n", b"\xff"]
        ),
        max_size=40,
    )
)
@example([b"\\", b"u005c"] * 9)
@example([b"\\ud83d", b"\\" * 65, b"u", b"de00"])
def test_the_quick_text_is_that_of_the_whole_search(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert _plain_text(data) == _Plain(data).text
