"""Retention under the running daemon: on request, on its cadence, with workspaces and folders, interrupted."""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daemon.units import format_instant
from tests.support.api import call
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.database import change_database
from tests.support.histories import fill
from tests.support.peers.processes import free_port
from tests.support.site_daemon import config as site_config
from tests.support.site_daemon import ended, place_of
from tests.support.waiting import wait_until

CONFIG = """\
[daemon]
state_dir = "state"
max_concurrent_runs = 8
[control]
socket = "c.sock"
[retention]
days = 30
{retention}
[agents.a]
command = ["true"]
max_concurrent = 8
[agents.a.schedules.s]
every = "{every}"
"""


def config(retention: str = 'every = "100d"', every: str = "20d") -> str:
    return CONFIG.format(retention=retention, every=every)


def make_old(daemon: DaemonProcess, run: int, days: int = 40) -> None:
    """Have a run be touched last so many days ago."""
    change_database(
        daemon, f"UPDATE runs SET updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{days} days') WHERE id = ?", run
    )


def trigger(daemon: DaemonProcess) -> int:
    run = int(call(daemon, "POST", "/agents/a/schedules/s/trigger").body["id"])
    daemon.wait_for_run("completed", number=run)
    return run


def whole(daemon: DaemonProcess) -> bool:
    """Tell whether every run has its events and steps, and nothing is left of others."""
    halves = (
        "SELECT id FROM runs r WHERE (SELECT count(*) FROM events WHERE run_id = r.id) < 4 AND status = 'completed'",
        "SELECT 1 FROM events WHERE run_id NOT IN (SELECT id FROM runs)",
        "SELECT 1 FROM steps WHERE run_id NOT IN (SELECT id FROM runs)",
        "SELECT 1 FROM hooks WHERE run_id NOT IN (SELECT id FROM runs)",
        "SELECT 1 FROM fires WHERE run_id IS NOT NULL AND run_id NOT IN (SELECT id FROM runs)",
    )
    return not any(daemon.query(sql) for sql in halves)


def test_a_requested_sweep_returns_what_it_did(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config())
    old, young = trigger(daemon), trigger(daemon)
    make_old(daemon, old)
    dry = daemon.cli("retention", "run", "--dry-run").stdout
    assert "Would delete 1 run, 1 folder (" in dry
    assert f"Runs: {old}." in dry
    assert (daemon.state / "runs" / str(old)).exists()
    told = daemon.cli("retention", "run").stdout
    assert told.startswith("Deleted 1 run, 1 folder, 0 fires")
    assert [row["id"] for row in daemon.query("SELECT id FROM runs")] == [young]
    assert not (daemon.state / "runs" / str(old)).exists()
    assert call(daemon, "GET", f"/runs/{old}").status == 404
    body = call(daemon, "POST", "/retention/run").body
    assert {key: body[key] for key in ("deleted", "skipped", "fires", "folders", "bytes_freed")} == {
        "deleted": 0,
        "skipped": False,
        "fires": 0,
        "folders": 0,
        "bytes_freed": 0,
    }
    assert body["duration_ms"] >= 0
    figures = call(daemon, "GET", "/metrics").data.decode()
    assert 'agentcron_retention_deleted_total{kind="runs"} 1.0' in figures
    assert 'agentcron_retention_sweeps_total{result="done"} 2.0' in figures
    assert daemon.wait_for_log("[retention] Deleted 1 run", folders=1)
    daemon.config.write_text(daemon.config.read_text().replace("days = 30", ""))
    assert call(daemon, "POST", "/reload").status == 200
    assert "Skipped: retention.days is not set" in daemon.cli("retention", "run").stdout
    assert call(daemon, "POST", "/retention/run").body["skipped"] is True


def test_it_sweeps_when_the_config_says_and_a_failure_stops_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config('every = "1s"'))
    daemon.wait_for_log("[retention] Deleted 0 runs")
    run = trigger(daemon)
    with contextlib.closing(sqlite3.connect(daemon.state / "state.db", isolation_level=None)) as holder:
        make_old(daemon, run)
        holder.execute("BEGIN IMMEDIATE")
        daemon.wait_for_log("[retention] The sweep failed, will retry at the next scheduled time")
    daemon.wait_for_log("[retention] Deleted 1 run")
    figures = call(daemon, "GET", "/metrics").data.decode()
    assert 'agentcron_retention_sweeps_total{result="failed"} 0.0' not in figures


def test_a_missed_sweep_runs_at_the_start(start_daemon: StartDaemon) -> None:
    first = start_daemon(config())
    run = trigger(first)
    first.stop()
    make_old(first, run)
    change_database(first, "UPDATE instance SET swept_at = '2026-01-01T00:00:00.000Z'")
    start_daemon(config()).wait_for_log("[retention] Deleted 1 run")


@pytest.mark.usefixtures("origin")
def test_workspaces_of_expired_runs_are_saved_first_and_renew_their_runs(start_daemon: StartDaemon) -> None:
    settings = 'every = "20d"\nsalvage_max = "1MB"\n[retention]\ndays = 30\nevery = "100d"'
    daemon = start_daemon(site_config(cleanup=settings))
    bad, wanted, large = ended(daemon, "3"), ended(daemon, "3"), ended(daemon, "3")
    assert call(daemon, "POST", f"/workspaces/{wanted}/keep").status == 200
    (place_of(daemon, large) / "large.bin").write_bytes(os.urandom(2_000_000))
    for run in (bad, wanted, large):
        make_old(daemon, run)
    assert call(daemon, "POST", "/retention/run", {"dry_run": True}).body["would_delete"]["workspaces"] == 2
    swept = call(daemon, "POST", "/retention/run").body
    assert (swept["deleted"], swept["workspaces"]) == (0, 1)
    assert not place_of(daemon, bad).exists()
    assert place_of(daemon, wanted).exists()
    assert place_of(daemon, large).exists()
    assert (daemon.state / f"runs/{bad}/artifacts/saved-work/work.bundle").exists()
    assert call(daemon, "POST", "/retention/run").body["deleted"] == 0, "the salvage renewed it"
    make_old(daemon, bad)
    swept = call(daemon, "POST", "/retention/run").body
    assert (swept["deleted"], swept["folders"]) == (1, 1)
    assert [row["id"] for row in daemon.query("SELECT id FROM runs ORDER BY id")] == [wanted, large]


def test_folders_without_a_run_go_but_not_those_that_a_lost_database_knew(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config())
    run = trigger(daemon)
    runs = daemon.state / "runs"
    for name in ("55", "77", "99", "077", "notes", "88"):
        (runs / name).mkdir()
        (runs / name / "output.log").write_text("x" * 5000)
    (runs / "66").symlink_to(daemon.folder)
    os.utime(runs / "88", (time.time() - 86400,) * 2)  # before the database began
    os.utime(runs / "99", (time.time() - 86400 * 40,) * 2)  # and so long ago that it has expired
    assert call(daemon, "POST", "/retention/run", {"dry_run": True}).body["would_delete"]["folders"] == 3
    with (runs / "55" / "status").open("w") as status:
        fcntl.flock(status, fcntl.LOCK_EX)  # as a supervisor does as long as it lives
        assert call(daemon, "POST", "/retention/run").body["folders"] == 2
    swept = call(daemon, "POST", "/retention/run").body
    assert swept["folders"] == 1
    assert swept["bytes_freed"] >= 5_000
    assert sorted(entry.name for entry in runs.iterdir() if entry.name[0] != ".") == sorted(
        [str(run), "077", "66", "88", "notes"]
    )
    assert daemon.config.exists()


@pytest.mark.parametrize("rounds", [2, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_a_sweep_interrupted_anywhere_leaves_every_run_complete_or_deleted(
    start_daemon: StartDaemon, rounds: int
) -> None:
    daemon = start_daemon(config())
    daemon.stop()
    for number in range(rounds):
        fill(daemon.state / "state.db", 5000, fires=True)
        for run in daemon.query("SELECT id FROM runs ORDER BY id LIMIT 50"):
            (daemon.state / f"runs/{run['id']}/artifacts").mkdir(parents=True, exist_ok=True)
        daemon = start_daemon(config())
        before = daemon.query("SELECT count(*) AS n FROM runs")[0]["n"]
        sweep = subprocess.Popen(
            [
                "curl",
                "-s",
                "--unix-socket",
                str(daemon.folder / "c.sock"),
                "-X",
                "POST",
                "http://localhost/retention/run",
            ]
        )
        share = (number + 1) / (rounds + 1)
        wait_until(lambda: daemon.query("SELECT count(*) AS n FROM runs")[0]["n"] < before - 4500 * share)  # noqa: B023
        daemon.kill()
        sweep.wait()
        assert whole(daemon)
    daemon = start_daemon(config())
    call(daemon, "POST", "/retention/run")
    assert whole(daemon)
    assert daemon.query("SELECT count(*) AS n FROM runs")[0]["n"] == 500 * rounds
    known = {str(row["id"]) for row in daemon.query("SELECT id FROM runs")}
    assert {entry.name for entry in (daemon.state / "runs").iterdir() if entry.name.isdigit()} <= known


def test_a_stop_in_mid_sweep_is_quick_and_loses_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config())
    daemon.stop()
    fill(daemon.state / "state.db", 20_000)
    daemon = start_daemon(config('every = "1s"'))
    wait_until(lambda: daemon.query("SELECT count(*) AS n FROM runs")[0]["n"] < 18_000, what="a sweep under way")
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 5
    assert whole(daemon)
    assert daemon.query("PRAGMA integrity_check")[0][0] == "ok"


def test_a_stop_during_a_requested_sweep_is_clean(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config())
    daemon.stop()
    fill(daemon.state / "state.db", 200_000)
    daemon = start_daemon(config())
    url = ["--unix-socket", str(daemon.folder / "c.sock"), "-X", "POST", "http://localhost/retention/run"]
    sweep = subprocess.Popen(["curl", "-s", *url], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: daemon.query("SELECT count(*) AS n FROM runs")[0]["n"] < 198_000, what="a sweep under way")
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 5
    told = sweep.communicate()[0]
    assert not told or "the daemon is stopping" in told
    assert "Traceback" not in daemon.log_text()
    assert "Unexpected" not in daemon.log_text()
    assert whole(daemon)


def test_what_may_have_run_is_not_started_again_after_its_fire_was_deleted(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config(every="1d"))
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    span = {"from": format_instant(day - timedelta(days=12)), "to": format_instant(day - timedelta(days=10))}
    span["overlap_policy"] = "allow_all"
    path = "/agents/a/schedules/s/backfill"
    assert call(daemon, "POST", path, span).body["backfilled"] == 3
    for run in (1, 2, 3):
        daemon.wait_for_run("completed", number=run)
        make_old(daemon, run, 12)
    change_database(daemon, "UPDATE fires SET decided_at = scheduled_for")
    daemon.config.write_text(daemon.config.read_text().replace("days = 30", "days = 7"))
    assert call(daemon, "POST", "/reload").status == 200
    swept = call(daemon, "POST", "/retention/run").body
    assert (swept["deleted"], swept["fires"]) == (3, 2)
    daemon.config.write_text(daemon.config.read_text().replace("days = 7", "days = 365"))
    assert call(daemon, "POST", "/reload").status == 200
    again = call(daemon, "POST", path, span)
    assert again.status == 400
    assert "retention has deleted the fires up to" in again.body["message"]
    newest = {**span, "from": span["to"]}
    assert call(daemon, "POST", path, newest).body["already_run"] == 1


@pytest.mark.parametrize("place", ["runs", "runs/.trash"])
def test_where_folders_cannot_be_removed_the_rows_stay_too(
    start_daemon: StartDaemon, tmp_path: Path, place: str
) -> None:
    daemon = start_daemon(config())
    run = trigger(daemon)
    make_old(daemon, run)
    daemon.stop()
    (tmp_path / "elsewhere").mkdir()
    if place == "runs":
        (daemon.state / place).rename(tmp_path / "elsewhere/runs")
    (daemon.state / place).symlink_to(tmp_path / "elsewhere" / ("runs" if place == "runs" else ""))
    daemon = start_daemon(config())
    refused = call(daemon, "POST", "/retention/run")
    assert refused.status == 503
    assert "is a link, a mount point or not a folder" in refused.body["message"]
    daemon.wait_for_log("[retention] The sweep failed")
    assert [row["id"] for row in daemon.query("SELECT id FROM runs")] == [run]


@pytest.mark.usefixtures("origin")
def test_what_a_cleanup_saved_of_an_old_run_stays_as_long_as_a_new_one(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(site_config(cleanup='every = "20d"\n[retention]\ndays = 30\nevery = "100d"'))
    discarded, lost = ended(daemon, "3"), ended(daemon, "3")
    for run in (discarded, lost):
        make_old(daemon, run)
    assert call(daemon, "POST", f"/workspaces/{discarded}/discard").status == 200
    shutil.rmtree(place_of(daemon, lost))
    assert call(daemon, "POST", "/workspaces/clean").status == 200
    assert call(daemon, "POST", "/retention/run").body["deleted"] == 0
    assert (daemon.state / f"runs/{discarded}/artifacts/saved-work").exists()


def test_only_an_admin_runs_it(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "ci.token").write_text("sesame-street-123456")
    port = free_port()
    text = config().replace(
        'socket = "c.sock"',
        f'socket = "c.sock"\nlisten = "127.0.0.1:{port}"\ntokens = [{{ name = "ci", file = "ci.token" }}]',
    )
    daemon = start_daemon(text)
    found = subprocess.run(
        [
            "curl",
            "-s",
            "-X",
            "POST",
            "-H",
            "Authorization: Bearer sesame-street-123456",
            f"http://127.0.0.1:{port}/retention/run",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"forbidden"' in found.stdout
    assert daemon.process.poll() is None
