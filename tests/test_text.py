"""Text for people."""

import pytest

from daemon.text import plural


@pytest.mark.parametrize(("number", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs")])
def test_one_is_singular(number: int, text: str) -> None:
    assert plural(number, "run") == text
