"""The names of workspaces' folders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.workspace_folders import kept_folder, schedule_of_folder


@given(st.integers(1, 10**18 - 1))
def test_the_place_of_a_schedule_is_known_by_its_name(schedule: int) -> None:
    assert schedule_of_folder(kept_folder(schedule)) == schedule


@pytest.mark.parametrize(
    "name", ["", "7", "schedule-", "schedule-07", "schedule--7", "schedule-\u0667", "schedule-7.2", "x"]
)
def test_other_names_are_no_places_of_schedules(name: str) -> None:
    assert schedule_of_folder(name) is None
    assert schedule_of_folder("schedule-" + "9" * 30) is None
