"""Numbers that agents report: what is used of them can always be stored and added up."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.reported import LARGEST, MOST_COST, MOST_TOKENS, amount_of, count_of, usage_of

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(2**62, 2**80), st.floats(), st.text(), st.lists(st.integers())
)


@given(ANYTHING)
def test_what_is_counted_fits_into_a_column(value: object) -> None:
    count, amount = count_of(value), amount_of(value, MOST_COST)
    assert count is None or 0 <= count <= LARGEST
    assert amount is None or 0 <= amount <= MOST_COST


@given(st.dictionaries(st.sampled_from(["input_tokens", "output_tokens", "cost_usd", "x"]), ANYTHING))
def test_each_value_is_used_or_complained_about(reported: dict[str, object]) -> None:
    used, complaints = usage_of(reported)
    known = {name for name in ("input_tokens", "output_tokens", "cost_usd") if reported.get(name) is not None}
    assert used.keys() | {complaint.split()[0].removeprefix("usage.") for complaint in complaints} == known
    assert len(used) + len(complaints) == len(known)
    assert all(value <= MOST_TOKENS for value in used.values())


@pytest.mark.parametrize(("value", "count"), [(5, 5), (5.0, 5), (0, 0), (True, None), (-1, None), (0.5, None)])
def test_whole_numbers_are_counts(value: object, count: int | None) -> None:
    assert count_of(value) == count


def test_a_number_beyond_all_floats_is_no_amount() -> None:
    assert amount_of(10**400, sys.float_info.max) is None
    assert amount_of(float("nan"), sys.float_info.max) is None
