"""The routes of schedules: shapes, states, versions and history."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon.units import format_instant, parse_instant
from tests.support.api import SCHEDULES, call, create
from tests.support.daemon_process import DaemonProcess
from tests.support.database import change_database
from tests.support.waiting import wait_until

ONE = f"{SCHEDULES}/s"
DECLARED = f"{SCHEDULES}/declared"


def test_a_schedule_is_created_with_its_defaults_and_read_back(daemon: DaemonProcess) -> None:
    made = create(daemon, task_params={"n": 1}, initial_input={"content": "hello"})
    assert made["source"] == "created"
    assert made["creator_principal"] == "root"
    assert (made["overlap_policy"], made["catchup"], made["timezone"], made["version"]) == ("skip", "latest", "UTC", 1)
    assert made["initial_input"] == {"type": "text", "author": "user", "content": "hello"}
    assert len(made["next_action_times"]) == 5
    read = call(daemon, "GET", ONE)
    assert read.status == 200
    assert read.headers["ETag"] == '"1"'
    assert read.body == made


def test_every_key_of_a_new_schedule_is_kept(daemon: DaemonProcess) -> None:
    keys: dict[str, Any] = {
        "cron_expression": "30 2 * * 1-5",
        "description": "nightly",
        "timezone": "Europe/London",
        "start_at": "2027-01-01T00:00:00.000Z",
        "end_at": "2027-12-31T00:00:00.000Z",
        "paused": True,
        "task_params": {"a": [1, None]},
        "task_metadata": {"display_name": "x"},
        "initial_input": {"type": "text", "author": "agent", "content": "go"},
        "overlap_policy": "buffer_one",
        "catchup": "all",
        "catchup_window_seconds": 60,
        "jitter_seconds": 5,
        "pause_on_failure": True,
    }
    made = create(daemon, **keys)
    assert {name: made[name] for name in keys} == keys
    made = create(daemon, name="other", interval_seconds=7200, offset_seconds=300)
    assert (made["interval_seconds"], made["offset_seconds"]) == (7200, 300)


def test_a_number_without_a_fraction_is_whole(daemon: DaemonProcess) -> None:
    assert create(daemon, interval_seconds=60.0)["interval_seconds"] == 60
    assert call(daemon, "PATCH", ONE, {"interval_seconds": 60.5}).status == 422


def test_a_name_is_taken_once(daemon: DaemonProcess) -> None:
    create(daemon)
    again = call(daemon, "POST", SCHEDULES, {"name": "s", "cron_expression": "@daily"})
    assert (again.status, again.code) == (409, "conflict")
    declared = call(daemon, "POST", SCHEDULES, {"name": "declared", "cron_expression": "@daily"})
    assert declared.status == 409
    assert "in the config file" in declared.body["message"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"name": "s"}, 400, "no cadence"),
        ({"name": "s", "cron_expression": "@daily", "interval_seconds": 60}, 422, "both"),
        ({"cron_expression": "@daily"}, 422, "name"),
        ({"name": "No", "cron_expression": "@daily"}, 422, "name"),
        ({"name": "s", "cron_expression": "61 * * * *"}, 400, "cron_expression"),
        ({"name": "s", "cron_expression": "@daily", "timezone": "Mars/Olympus"}, 400, "timezone"),
        ({"name": "s", "interval_seconds": 0}, 422, "interval_seconds"),
        ({"name": "s", "interval_seconds": "60"}, 422, "interval_seconds"),
        ({"name": "s", "interval_seconds": 60, "start_at": "yesterday"}, 400, "start_at"),
        (
            {"name": "s", "interval_seconds": 60, "start_at": "2027-01-02T00:00:00Z", "end_at": "2027-01-01T00:00:00Z"},
            400,
            "end_at",
        ),
        ({"name": "s", "interval_seconds": 60, "overlap_policy": "jump"}, 422, "overlap_policy"),
        ({"name": "s", "interval_seconds": 60, "bogus": 1}, 422, "bogus"),
        ({"name": "s", "interval_seconds": 60, "initial_input": {"content": 1}}, 422, "initial_input.content"),
        ({"name": "s", "interval_seconds": 60, "task_metadata": {"display_name": 1}}, 400, "display_name"),
        ([], 422, "should be an object"),
    ],
)
def test_a_bad_schedule_is_refused_naming_what_is_wrong(
    refusing: DaemonProcess, body: object, status: int, field: str
) -> None:
    answer = call(refusing, "POST", SCHEDULES, body)
    assert answer.status == status
    assert field in answer.data.decode()
    assert call(refusing, "GET", SCHEDULES).body["total"] == 1


def test_one_cadence_replaces_the_other(daemon: DaemonProcess) -> None:
    create(daemon, offset_seconds=60)
    swapped = call(daemon, "PATCH", ONE, {"cron_expression": "@daily"}).body
    assert (swapped["cron_expression"], swapped["interval_seconds"], swapped["offset_seconds"]) == ("@daily", None, 0)
    assert call(daemon, "PATCH", ONE, {"cron_expression": None}).status == 400
    assert call(daemon, "PATCH", ONE, {"offset_seconds": 60}).status == 400
    assert call(daemon, "PATCH", ONE, {"cron_expression": "@daily", "interval_seconds": 60}).status == 422
    back = call(daemon, "PATCH", ONE, {"cron_expression": None, "interval_seconds": 60}).body
    assert (back["cron_expression"], back["interval_seconds"], back["version"]) == (None, 60, 3)


def test_null_clears_what_may_be_empty_and_nothing_else(daemon: DaemonProcess) -> None:
    create(
        daemon,
        description="d",
        start_at="2027-01-01T00:00:00Z",
        end_at="2027-02-01T00:00:00Z",
        task_params={"a": 1},
        task_metadata={"b": 2},
    )
    nulls = dict.fromkeys(("description", "start_at", "end_at", "task_params", "task_metadata"))
    cleared = call(daemon, "PATCH", ONE, nulls).body
    assert {name: cleared[name] for name in nulls} == {
        "description": "",
        "start_at": None,
        "end_at": None,
        "task_params": {},
        "task_metadata": {},
    }
    for name in ("timezone", "overlap_policy", "jitter_seconds", "paused", "initial_input"):
        assert call(daemon, "PATCH", ONE, {name: None}).status == 422


def test_a_change_that_changes_nothing_leaves_version_and_history(daemon: DaemonProcess) -> None:
    create(daemon, description="d")
    assert call(daemon, "PATCH", ONE, {"description": "d"}).body["version"] == 1
    assert call(daemon, "POST", f"{ONE}/resume").body["version"] == 1
    assert call(daemon, "POST", f"{ONE}/pause", {"note": "x"}).body["version"] == 2
    assert call(daemon, "POST", f"{ONE}/pause").body["version"] == 2
    assert call(daemon, "POST", f"{ONE}/pause", {"note": "y"}).body["pause_note"] == "y"


def next_due(daemon: DaemonProcess) -> str:
    return str(call(daemon, "GET", ONE).body["next_action_times"][0])


MUTATIONS = [
    ("PATCH", "", {"description": "new"}),
    ("POST", "/pause", {}),
    ("POST", "/resume", {}),
    ("POST", "/trigger", {}),
    ("POST", "/skip", {"scheduled_time": "NEXT"}),
    ("POST", "/unskip", {"scheduled_time": "NEXT"}),
    ("POST", "/backfill", {"from": "2026-11-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}),
    ("DELETE", "", None),
]


def test_a_stale_version_changes_nothing(daemon: DaemonProcess) -> None:
    for number, (method, what, body) in enumerate(MUTATIONS):
        made = create(daemon, name=f"s{number}")
        due = {"scheduled_time": made["next_action_times"][0]}
        given = due if body and "scheduled_time" in body else body
        change_needs_version(daemon, f"{SCHEDULES}/s{number}", method, what, given)


def change_needs_version(
    daemon: DaemonProcess, schedule: str, method: str, what: str, body: Mapping[str, str] | None
) -> None:
    if what == "/unskip":
        assert call(daemon, "POST", f"{schedule}/skip", body).status == 200
    if what == "/resume":
        assert call(daemon, "POST", f"{schedule}/pause").status == 200
    before, runs = call(daemon, "GET", schedule), daemon.query("SELECT id FROM runs")
    for stale in ('"77"', 'W/"77"', "nonsense", '"1", "77"' if before.headers["ETag"] != '"1"' else '"77"'):
        refused = call(daemon, method, schedule + what, body, If_Match=stale)
        assert (refused.status, refused.code) == (412, "stale_version"), what
    assert call(daemon, "GET", schedule).body == before.body
    assert daemon.query("SELECT id FROM runs") == runs
    assert call(daemon, method, schedule + what, body, If_Match=f"W/{before.headers['ETag']}").status == 412
    assert call(daemon, method, schedule + what, body, If_Match=before.headers["ETag"]).status in {200, 201}


def test_a_declared_schedule_is_changed_in_the_file_only(daemon: DaemonProcess) -> None:
    for method, body in (("PATCH", {"description": "x"}), ("DELETE", None)):
        refused = call(daemon, method, DECLARED, body)
        assert refused.status == 409
        assert "config file" in refused.body["message"]
    assert call(daemon, "POST", f"{DECLARED}/pause").body["paused"] is True
    assert call(daemon, "POST", f"{DECLARED}/trigger").status == 201


def test_a_schedule_whose_alarm_was_lost_is_paused_resumed_and_armed_again(daemon: DaemonProcess) -> None:
    create(daemon, interval_seconds=1)
    change_database(daemon, "UPDATE schedules SET wake_at = NULL, next_due = NULL WHERE name = 's'")
    assert call(daemon, "POST", f"{ONE}/trigger").status == 201
    assert call(daemon, "POST", f"{ONE}/pause").status == 200
    assert call(daemon, "PATCH", ONE, {"description": "x"}).status == 200
    assert call(daemon, "POST", f"{ONE}/resume").status == 200
    daemon.wait_for_row("SELECT 1 FROM fires WHERE outcome = 'launched'")
    change_database(daemon, "UPDATE schedules SET wake_at = NULL, next_due = NULL WHERE name = 's'")
    assert call(daemon, "DELETE", ONE).status == 200


def test_a_create_that_fails_late_leaves_nothing(daemon: DaemonProcess) -> None:
    change_database(
        daemon,
        "CREATE TRIGGER refuse BEFORE INSERT ON schedule_revisions BEGIN SELECT RAISE(ABORT, 'no revision today'); END",
    )
    assert call(daemon, "POST", SCHEDULES, {"name": "s", "interval_seconds": 60}).status == 500
    assert call(daemon, "GET", ONE).status == 404
    change_database(daemon, "DROP TRIGGER refuse")
    create(daemon)


def test_a_deleted_name_is_free_and_its_history_stays(daemon: DaemonProcess) -> None:
    first = create(daemon, interval_seconds=1)
    daemon.wait_for_row("SELECT 1 FROM fires WHERE outcome = 'launched'")
    deleted = call(daemon, "DELETE", ONE)
    assert (deleted.status, deleted.body["state"]) == (200, "deleted")
    assert call(daemon, "GET", ONE).status == 404
    assert call(daemon, "DELETE", ONE).status == 404
    second = create(daemon)
    assert second["id"] != first["id"]
    assert call(daemon, "GET", f"{ONE}/fires").body["total"] == 0
    assert daemon.query("SELECT 1 FROM fires WHERE schedule_id = ?", first["id"])
    assert [
        row["action"] for row in daemon.query("SELECT * FROM schedule_revisions WHERE schedule_id = ?", first["id"])
    ]


def test_a_trigger_passes_pause_and_overlap_and_repeats_under_its_key(daemon: DaemonProcess) -> None:
    create(daemon, paused=True, initial_input={"content": "usual"})
    asked = {"initial_input": {"content": "special"}}
    runs = [call(daemon, "POST", f"{ONE}/trigger", asked, Idempotency_Key="k") for _ in range(2)]
    assert [run.status for run in runs] == [201, 201]
    assert runs[0].body["id"] == runs[1].body["id"]
    assert runs[0].body["trigger"] == "manual"
    assert runs[0].body["name"].startswith(f"scheduled-run:{runs[0].body['schedule_id']}:")
    other = call(daemon, "POST", f"{ONE}/trigger", {}, Idempotency_Key="k")
    assert (other.status, other.code) == (409, "conflict")
    assert call(daemon, "POST", f"{ONE}/trigger", {}).body["id"] != runs[0].body["id"]
    late = call(daemon, "POST", f"{ONE}/trigger", asked, Idempotency_Key="k", If_Match='"77"')
    assert (late.status, late.body["id"]) == (201, runs[0].body["id"])
    assert call(daemon, "POST", f"{ONE}/trigger", {}, Idempotency_Key="a b").status == 400
    daemon.wait_for_run("completed", number=runs[0].body["id"])
    assert call(daemon, "GET", f"/runs/{runs[0].body['id']}/output").data == b"hello\nspecial"
    assert call(daemon, "GET", f"{ONE}/fires").body["total"] == 0


def test_the_same_fire_decided_twice_is_one_run(daemon: DaemonProcess) -> None:
    create(daemon, interval_seconds=1)
    run = daemon.wait_for_run("completed")
    call(daemon, "POST", f"{ONE}/pause")
    wait_until(lambda: not daemon.query("SELECT 1 FROM runs WHERE completed_at IS NULL"), what="the end of all runs")
    at = run["scheduled_for"]
    just_before = format_instant(parse_instant(at) - timedelta(milliseconds=1))
    change_database(daemon, f"DELETE FROM fires WHERE scheduled_for = '{at}'")
    change_database(daemon, "DELETE FROM fires WHERE outcome = 'skipped_paused'")
    change_database(
        daemon,
        f"UPDATE schedules SET paused = 0, paused_at = NULL, cursor = '{just_before}', next_due = '{at}', "
        f"wake_at = '{at}' WHERE name = 's'",
    )
    call(daemon, "POST", f"{DECLARED}/pause")  # has the clock look
    daemon.wait_for_row("SELECT 1 FROM events WHERE run_id = ? AND type = 'fired_again'", run["id"])
    assert len(daemon.query("SELECT id FROM runs WHERE scheduled_for = ?", at)) == 1


def test_one_upcoming_due_time_is_left_out(daemon: DaemonProcess) -> None:
    create(daemon)
    due = next_due(daemon)
    skipped = call(daemon, "POST", f"{ONE}/skip", {"scheduled_time": due}).body
    assert (skipped["skipped_action_times"], skipped["version"]) == ([due], 2)
    assert due not in skipped["next_action_times"]
    assert call(daemon, "POST", f"{ONE}/skip", {"scheduled_time": due}).body["version"] == 2
    patched = call(daemon, "PATCH", ONE, {"description": "keeps its skips"}).body
    assert patched["skipped_action_times"] == [due]
    beside = format_instant(parse_instant(due) + timedelta(seconds=1))
    for time in (beside, "2026-01-01T00:00:00Z", "soon"):
        assert call(daemon, "POST", f"{ONE}/skip", {"scheduled_time": time}).status == 400
    back = call(daemon, "POST", f"{ONE}/unskip", {"scheduled_time": due}).body
    assert (back["skipped_action_times"], back["next_action_times"][0]) == ([], due)
    assert call(daemon, "POST", f"{ONE}/unskip", {"scheduled_time": due}).status == 400


def test_a_new_cadence_keeps_the_skips_that_are_due_under_it(daemon: DaemonProcess) -> None:
    create(daemon, interval_seconds=3600)
    times = call(daemon, "GET", ONE).body["next_action_times"]
    for due in times[:2]:
        assert call(daemon, "POST", f"{ONE}/skip", {"scheduled_time": due}).status == 200
    patched = call(daemon, "PATCH", ONE, {"interval_seconds": 7200}).body
    kept = [due for due in times[:2] if parse_instant(due).hour % 2 == 0]
    assert patched["skipped_action_times"] == kept
    [revision] = call(daemon, "GET", f"{ONE}/revisions?limit=1").body["revisions"]
    assert revision["changes"]["skipped_action_times"] == [times[:2], kept]


def test_a_skip_that_a_pause_overtook_is_neither_shown_nor_taken_back(daemon: DaemonProcess) -> None:
    made = create(daemon, paused=True)
    come = format_instant(datetime.now(UTC).replace(minute=0, second=0, microsecond=0))
    change_database(daemon, f"INSERT INTO schedule_skips VALUES ({made['id']}, '{come}', 'x', 'root')")
    assert call(daemon, "GET", ONE).body["skipped_action_times"] == []
    refused = call(daemon, "POST", f"{ONE}/unskip", {"scheduled_time": come})
    assert (refused.status, refused.body["message"]) == (400, f"{come} passed while a/s was paused")


def test_a_skipped_due_time_gets_its_row_and_no_run(daemon: DaemonProcess) -> None:
    create(daemon, interval_seconds=2)
    due = call(daemon, "GET", ONE).body["next_action_times"][1]  # the first may come meanwhile
    assert call(daemon, "POST", f"{ONE}/skip", {"scheduled_time": due}).status == 200
    row = daemon.wait_for_row("SELECT * FROM fires WHERE scheduled_for = ?", due)
    assert (row["outcome"], row["run_id"]) == ("skipped_requested", None)


def test_lists_come_in_pages(daemon: DaemonProcess) -> None:
    for number in range(7):
        create(daemon, name=f"s{number}")
    first = call(daemon, "GET", f"{SCHEDULES}?limit=3").body
    assert first["total"] == 8
    names, page = [view["name"] for view in first["run_schedules"]], first
    while page["next_cursor"]:
        page = call(daemon, "GET", f"{SCHEDULES}?limit=3&cursor={page['next_cursor']}").body
        names += [view["name"] for view in page["run_schedules"]]
    assert names == ["declared", *(f"s{number}" for number in range(7))]
    for _ in range(5):
        call(daemon, "POST", f"{SCHEDULES}/s0/pause")
        call(daemon, "POST", f"{SCHEDULES}/s0/resume", {"note": "again"})
    page = call(daemon, "GET", f"{SCHEDULES}/s0/revisions?limit=4").body
    assert (page["total"], [entry["version"] for entry in page["revisions"]]) == (11, [11, 10, 9, 8])
    for path in (SCHEDULES, f"{SCHEDULES}/s0/fires", f"{SCHEDULES}/s0/revisions"):
        refused = call(daemon, "GET", f"{path}?cursor=garbage")
        assert (refused.status, refused.body["message"]) == (400, "cursor: 'garbage' was not returned by this list")
    page = call(daemon, "GET", f"{SCHEDULES}/s0/revisions?limit=4&cursor={page['next_cursor']}").body
    assert [entry["version"] for entry in page["revisions"]] == [7, 6, 5, 4]
    assert page["revisions"][0]["changes"] == {"paused": [True, False]}
    assert page["revisions"][0]["note"] == "again"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=1e18", "limit=1001", "limit=", "limit=1&limit=2", "x=1"]
)
def test_a_bad_query_is_refused(refusing: DaemonProcess, query: str) -> None:
    for path in (SCHEDULES, "/runs", f"{DECLARED}/fires", f"{DECLARED}/revisions"):
        assert call(refusing, "GET", f"{path}?{query}").status == 422


def test_missing_resources_are_404(refusing: DaemonProcess) -> None:
    for method, path in (
        ("GET", f"{SCHEDULES}/none"),
        ("GET", "/agents/none/schedules/s"),
        ("GET", f"{SCHEDULES}/%2e%2e"),
        ("GET", f"{SCHEDULES}/%00"),
        ("GET", "/agents/%2e%2e/schedules"),
        ("GET", f"{SCHEDULES}/a%2fb"),
        ("POST", f"{SCHEDULES}/none/pause"),
        ("GET", "/runs/99"),
        ("GET", "/runs/0"),
        ("GET", "/runs/x"),
        ("GET", "/runs/99999999999999999999999"),
        ("GET", "/runs/" + "0" * 29 + "9" * 5000),
        ("GET", "/runs/1/nothing"),
        ("GET", "/nothing"),
    ):
        answer = call(refusing, method, path)
        assert (answer.status, answer.code) == (404, "not_found"), path


def test_the_switch_takes_the_schedule_routes_away_and_nothing_else(daemon: DaemonProcess) -> None:
    create(daemon, interval_seconds=1)
    text = daemon.config.read_text().replace("[control]\n", "[control]\nschedules_api = false\n")
    daemon.config.write_text(text)
    assert call(daemon, "POST", "/reload").status == 200
    for method, path in (("GET", SCHEDULES), ("GET", ONE), ("POST", f"{ONE}/pause"), ("DELETE", ONE)):
        assert call(daemon, method, path).status == 404
    assert f"{SCHEDULES}".replace("/a/", "/{agent}/") in call(daemon, "GET", "/openapi.json").body["paths"]
    assert call(daemon, "GET", "/runs").status == 200
    since = format_instant(datetime.now(UTC))
    daemon.wait_for_row("SELECT 1 FROM fires WHERE scheduled_for > ? AND outcome = 'launched'", since)
