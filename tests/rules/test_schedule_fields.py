"""The table of a schedule's fields agrees with the config, the database and the API, and converts without loss."""

import sqlite3
from dataclasses import replace
from typing import Any

import pytest

from daemon.api import requests
from daemon.cli.schedules import print_schedule
from daemon.config.schema import Config, Schedule
from daemon.rules.schedule_fields import BOOLEAN, DEFINITION, DURATION, FIELDS, ScheduleField
from daemon.schedules.declared import definition_of
from daemon.store.migrate import migrations

FULL = Schedule.model_validate(
    {
        "every": "90m",
        "offset": "1m",
        "timezone": "Europe/London",
        "start_at": "2026-01-01T00:00:00Z",
        "end_at": "2027-01-01T00:00:00Z",
        "jitter": "5s",
        "overlap": "buffer_one",
        "catchup": "all",
        "catchup_window": "1h",
        "pause_on_failure": True,
        "description": "d",
        "input": {"author": "agent", "content": "go"},
        "params": {"n": [1, None]},
        "metadata": {"display_name": "x"},
    }
)
"""Values other than the defaults."""


def field(column: str) -> ScheduleField:
    return next(entry for entry in FIELDS if entry.column == column)


def test_every_key_of_the_file_is_in_the_table_under_its_own_names() -> None:
    assert {entry.attribute.partition(".")[0] for entry in FIELDS} == Schedule.model_fields.keys()
    for names in ([entry.key for entry in FIELDS], [entry.api for entry in FIELDS], [entry.column for entry in FIELDS]):
        assert len(names) == len(set(names))


def test_every_column_is_in_the_database() -> None:
    connection = sqlite3.connect(":memory:")
    for script in migrations().values():
        connection.executescript(script)
    columns = {row[1] for row in connection.execute("PRAGMA table_info(schedules)")}
    connection.close()
    assert {entry.column for entry in FIELDS} <= columns


def test_what_the_file_says_comes_back_from_the_api_unchanged() -> None:
    for schedule in (FULL, Schedule()):
        columns = definition_of(schedule, Config())
        for entry in DEFINITION:
            stored = columns[entry.column]
            assert stored is None or entry.kind.from_api(entry.shown(stored)) == stored, entry.key


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        ("every_ms", "1h30m", 5400),
        ("description", "a: b", "a: b"),
        ("start_at", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("task_params", '{"a": 1}', {"a": 1}),
    ],
)
def test_an_option_gives_what_a_request_holds(column: str, text: str, value: object) -> None:
    assert field(column).kind.parse(text) == value


@pytest.mark.parametrize(("column", "text"), [("every_ms", "soon"), ("task_params", "[1]"), ("task_params", "{")])
def test_an_option_without_a_meaning_is_refused(column: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"^not "):
        field(column).kind.parse(text)


def test_names_follow_from_key_and_kind() -> None:
    made = ScheduleField("max_delay", DURATION)
    assert (made.api, made.column, made.option) == ("max_delay_seconds", "max_delay_ms", "--max-delay")
    assert ScheduleField("is_odd", BOOLEAN).option == "--is-odd/--no-is-odd"


def test_requests_take_no_field_that_only_the_file_has() -> None:
    jitter = field("jitter_ms")
    assert requests.keys_of([jitter]).keys() == {"jitter_seconds"}
    assert requests.keys_of([replace(jitter, file_only=True)]) == {}


def test_show_has_a_line_for_each_field_that_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    view: dict[str, Any] = {
        "agent": "a",
        "name": "s",
        "description": "",
        "cron_expression": "@daily",
        "timezone": "UTC",
        "state": "active",
        "pause_note": None,
        "start_at": None,
        "end_at": None,
        "overlap_policy": "skip",
        "catchup": "latest",
        "catchup_window_seconds": 60,
        "initial_input": {"content": ""},
        "num_actions_taken": 0,
        "last_action_time": None,
        "missed_count": 0,
        "next_action_times": [],
        "skipped_action_times": [],
        "source": "created",
        "creator_principal": "root",
        "version": 1,
        "jitter_seconds": 5,
        "pause_on_failure": False,
        "task_params": {"n": 1},
        "task_metadata": {},
    }
    print_schedule(view)
    shown = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
    assert ["jitter", "5s"] in [[name, value.strip()] for name, value in shown]
    assert [name for name, _ in shown if name.startswith(("task", "pause"))] == ["task params"]
