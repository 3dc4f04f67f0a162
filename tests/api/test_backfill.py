"""Backfill: past due times that were not started are started once, and recorded in the ledger."""

from datetime import UTC, datetime, timedelta

import pytest

from daemon.units import format_instant, parse_instant
from tests.support.api import CONFIG, SCHEDULES, call, create
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.database import change_database

PATH = f"{SCHEDULES}/s/backfill"
HOUR = timedelta(hours=1)


def hours_ago(count: int) -> str:
    return format_instant(datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - count * HOUR)


def span(first: int, last: int, policy: str | None = None) -> dict[str, str]:
    return {"from": hours_ago(first), "to": hours_ago(last), **({"overlap_policy": policy} if policy else {})}


def test_due_times_without_a_run_get_one_each_once(daemon: DaemonProcess) -> None:
    create(daemon)
    done = call(daemon, "POST", PATH, span(5, 3, "allow_all")).body
    assert (done["backfilled"], done["already_run"], len(done["runs"])) == (3, 0, 3)
    again = call(daemon, "POST", PATH, span(6, 3, "allow_all")).body
    assert (again["backfilled"], again["already_run"]) == (1, 3)
    rows = daemon.query("SELECT * FROM fires ORDER BY scheduled_for")
    assert [(row["scheduled_for"], row["outcome"]) for row in rows] == [
        (hours_ago(hour), "launched") for hour in (6, 5, 4, 3)
    ]
    run = daemon.wait_for_run("completed", number=done["runs"][0])
    assert (run["trigger"], run["creator"], run["scheduled_for"]) == ("backfill", "root", hours_ago(5))


def test_the_command_says_how_to_start_what_the_overlap_policy_skips(daemon: DaemonProcess) -> None:
    create(daemon)
    asked = ("schedules", "backfill", "a/s", "--from", hours_ago(4), "--to", hours_ago(1))
    assert daemon.cli(*asked).stdout == (
        "Due times started: 1; already run: 0; skipped by the overlap policy: 3 "
        "(--overlap buffer_all starts them one after the other).\n"
    )
    assert "Due times started: 3; already run: 1" in daemon.cli(*asked, "--overlap", "buffer_all").stdout


def test_the_overlap_policy_is_obeyed(daemon: DaemonProcess) -> None:
    create(daemon)
    done = call(daemon, "POST", PATH, span(4, 1)).body  # the schedule's own: skip
    assert (done["backfilled"], done["skipped_overlap"]) == (1, 3)
    outcomes = [row["outcome"] for row in daemon.query("SELECT outcome FROM fires ORDER BY scheduled_for")]
    assert outcomes == ["launched", "skipped_overlap", "skipped_overlap", "skipped_overlap"]
    daemon.wait_for_run("completed", number=done["runs"][0])
    done = call(daemon, "POST", PATH, span(4, 1, "buffer_all")).body
    assert (done["backfilled"], done["already_run"]) == (3, 1)
    for run in done["runs"]:
        daemon.wait_for_run("completed", number=run)
    assert {row["outcome"] for row in daemon.query("SELECT outcome FROM fires")} == {"launched"}
    told = daemon.query("SELECT data FROM events WHERE type = 'backfilled' AND run_id = ?", done["runs"][0])
    assert '"was": "skipped_overlap"' in told[0]["data"]


def test_a_backfill_may_cancel_what_runs(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(CONFIG.replace("echo hello; cat", "echo $AGENTCRON_TRIGGER; sleep 300"))
    create(daemon)
    running = call(daemon, "POST", f"{SCHEDULES}/s/trigger").body["id"]
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", running)
    first, second = call(daemon, "POST", PATH, span(2, 1, "cancel_other")).body["runs"]
    for run in (running, first):
        assert "a backfill started another run" in daemon.wait_for_run("cancelled", number=run)["error"]
    daemon.wait_for_run("running", number=second)
    unstarted, started = daemon.query("SELECT outcome, reason FROM fires ORDER BY scheduled_for")
    assert (unstarted["outcome"], started["outcome"]) == ("skipped_requested", "launched")
    assert "a backfill started another run" in unstarted["reason"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (span(1, 5), "from is after to"),
        ({"from": hours_ago(1), "to": "2999-01-01T00:00:00Z"}, "in the future"),
        ({"from": "2020-01-01T00:00:00Z", "to": hours_ago(1)}, "at most 1000"),
        ({"from": "x", "to": hours_ago(1)}, "from"),
    ],
)
def test_a_span_that_makes_no_sense_is_refused(refusing: DaemonProcess, body: dict[str, str], why: str) -> None:
    before = refusing.query("SELECT * FROM fires")
    answer = call(refusing, "POST", f"{SCHEDULES}/declared/backfill", body)
    assert answer.status == 400
    assert why in answer.body["message"]
    assert refusing.query("SELECT * FROM fires") == before


def test_no_further_back_than_retention(daemon: DaemonProcess) -> None:
    daemon.config.write_text(daemon.config.read_text() + "[retention]\ndays = 1\n")
    assert call(daemon, "POST", "/reload").status == 200
    create(daemon)
    assert call(daemon, "POST", PATH, span(30, 29)).status == 400
    assert call(daemon, "POST", PATH, span(3, 2)).status == 200


@pytest.mark.usefixtures("in_mid_minute")
def test_a_due_time_taken_out_of_a_summary_splits_it(daemon: DaemonProcess) -> None:
    made = create(daemon, interval_seconds=60)
    first, last = parse_instant(hours_ago(30)), parse_instant(hours_ago(10))
    count = (last - first) // timedelta(minutes=1) + 1
    ends = f"'{format_instant(last)}', {count}"
    change_database(
        daemon,
        "INSERT INTO fires (schedule_id, scheduled_for, outcome, reason, decided_at, covers_until, covers_count) "
        f"VALUES ({made['id']}, '{format_instant(first)}', 'skipped_missed', 'away', '{hours_ago(9)}', {ends})",
    )
    middle = format_instant(parse_instant(hours_ago(20)))
    for due in (middle, format_instant(first), format_instant(last)):
        done = call(daemon, "POST", PATH, {"from": due, "to": due, "overlap_policy": "allow_all"}).body
        assert done["backfilled"] == 1
    rows = daemon.query("SELECT * FROM fires ORDER BY scheduled_for")
    assert [row["outcome"] for row in rows] == [
        "launched",
        "skipped_missed",
        "launched",
        "skipped_missed",
        "launched",
    ]
    assert sum(row["covers_count"] or 1 for row in rows) == count
    minute = timedelta(minutes=1)
    assert rows[1]["scheduled_for"] == format_instant(first + minute)
    assert rows[1]["covers_until"] == format_instant(parse_instant(middle) - minute)
    assert rows[3]["scheduled_for"] == format_instant(parse_instant(middle) + minute)
    assert rows[3]["covers_until"] == format_instant(last - minute)
    told = daemon.query("SELECT data FROM events WHERE type = 'backfilled'")
    assert all('"was": "skipped_missed"' in row["data"] for row in told)


@pytest.mark.usefixtures("in_mid_minute")
def test_a_summary_is_split_by_the_cadence_it_was_written_under(daemon: DaemonProcess) -> None:
    made = create(daemon, interval_seconds=60)
    first, last = parse_instant(hours_ago(30)), parse_instant(hours_ago(10))
    count = (last - first) // timedelta(minutes=1) + 1
    change_database(
        daemon,
        "INSERT INTO fires (schedule_id, scheduled_for, outcome, reason, decided_at, covers_until, covers_count, "
        f"schedule_version) VALUES ({made['id']}, '{hours_ago(30)}', 'skipped_missed', '-', '{hours_ago(9)}', "
        f"'{hours_ago(10)}', {count}, 1)",
    )
    assert call(daemon, "PATCH", f"{SCHEDULES}/s", {"interval_seconds": 7200}).status == 200
    even = next(at for at in map(hours_ago, (20, 21)) if parse_instant(at).hour % 2 == 0)
    assert call(daemon, "POST", PATH, {"from": even, "to": even}).body["backfilled"] == 1
    before, started, after = daemon.query("SELECT * FROM fires ORDER BY scheduled_for")
    minute = timedelta(minutes=1)
    assert (before["scheduled_for"], started["scheduled_for"]) == (hours_ago(30), even)
    assert before["covers_until"] == format_instant(parse_instant(even) - minute)
    assert after["scheduled_for"] == format_instant(parse_instant(even) + minute)
    assert after["covers_until"] == hours_ago(10)
    assert before["covers_count"] + after["covers_count"] == count - 1


def test_due_times_skipped_under_an_earlier_cadence_can_be_started(daemon: DaemonProcess) -> None:
    made = create(daemon, interval_seconds=7200, offset_seconds=7)
    row, summary = hours_ago(3), (hours_ago(30), hours_ago(10))
    count = (parse_instant(summary[1]) - parse_instant(summary[0])) // timedelta(minutes=1) + 1
    change_database(
        daemon,
        "INSERT INTO fires (schedule_id, scheduled_for, outcome, reason, decided_at, covers_until, covers_count, "
        f"schedule_version) VALUES ({made['id']}, '{row}', 'skipped_requested', '-', '{row}', NULL, NULL, NULL), "
        f"({made['id']}, '{summary[0]}', 'skipped_missed', '-', '{row}', '{summary[1]}', {count}, 1)",
    )
    change = '{"every_ms": [60000, 7200000], "offset_ms": [0, 7000]}'
    change_database(daemon, f"UPDATE schedules SET version = 2 WHERE id = {made['id']}")
    columns = "(schedule_id, version, at, principal, action, changes)"
    change_database(
        daemon, f"INSERT INTO schedule_revisions {columns} VALUES ({made['id']}, 2, '{row}', 'x', 'update', '{change}')"
    )
    for due in (row, hours_ago(20)):
        assert (
            call(daemon, "POST", PATH, {"from": due, "to": due, "overlap_policy": "allow_all"}).body["backfilled"] == 1
        )
    rows = daemon.query("SELECT * FROM fires ORDER BY scheduled_for")
    assert [row["outcome"] for row in rows] == ["skipped_missed", "launched", "skipped_missed", "launched"]
    assert sum(row["covers_count"] or 1 for row in rows) == count + 1


@pytest.mark.usefixtures("in_mid_minute")
def test_fires_of_a_backfill_and_a_pause_are_counted(daemon: DaemonProcess) -> None:
    made = create(daemon, interval_seconds=60, paused=True)
    change_database(daemon, f"UPDATE schedules SET cursor = '{hours_ago(5)}' WHERE id = {made['id']}")
    assert call(daemon, "POST", f"{SCHEDULES}/s/resume").status == 200
    call(daemon, "POST", PATH, {"from": hours_ago(3), "to": hours_ago(3)})
    [row] = daemon.query("SELECT sum(covers_count) AS n FROM fires WHERE outcome = 'skipped_paused'")
    figures = call(daemon, "GET", "/metrics").data.decode().splitlines()
    assert 'agentcron_fires_total{outcome="launched"} 1.0' in figures
    assert f'agentcron_fires_total{{outcome="skipped_paused"}} {row["n"] + 1}.0' in figures
