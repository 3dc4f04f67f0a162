"""Reload: a good file is applied as a whole, a bad one changes nothing, and `check --diff` predicts it."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import forked
from tests.support.configs import one_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon, daemons_in
from tests.support.runs import begun
from tests.support.waiting import wait_until

TWO = """\
[daemon]
state_dir = "state"
[agents.a]
command = ["true"]
[agents.a.schedules.kept]
every = "1h"
[agents.a.schedules.going]
every = "1h"
"""
CHANGED = TWO.replace('every = "1h"', 'every = "2h"\njitter = "5s"', 1).replace("going", "coming")


def test_a_reload_applies_the_file_as_a_whole(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("echo begun"))
    begun(daemon)
    daemon.config.write_text(daemon.config.read_text().replace("schedules.s]", "schedules.other]"))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for_log("[config] Schedule retired", schedule="a/s")
    daemon.wait_for_log("[config] Schedule created", schedule="a/other")
    daemon.wait_for_log("[clock] Fired", schedule="a/other")


def test_a_bad_file_changes_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("echo begun"))
    before = daemon.query("SELECT version, updated_at FROM schedules")
    daemon.config.write_text(daemon.config.read_text() + "bogus = 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    event = daemon.wait_for_log("[config] Not reloaded")
    assert "bogus = 1: unknown key" in event["problem"]
    assert daemon.query("SELECT version, updated_at FROM schedules") == before
    number = len(daemon.query("SELECT id FROM runs")) + 1
    daemon.wait_for_run("completed", number=number)


def test_the_command_and_the_log_report_all_mistakes(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    daemon.config.write_text(daemon.config.read_text() + "bogus = 1\nworse = 2\n")
    told = daemon.cli("reload")
    assert (told.returncode, len(told.stderr.splitlines())) == (2, 2)
    for key in ("bogus", "worse"):
        assert f"{key} = " in told.stderr
        assert any(key in event.get("problem", "") for event in daemon.log())


def test_the_command_finds_the_daemon_where_it_listens_and_says_what_needs_a_restart(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    daemon.config.write_text(TWO + '[control]\nsocket = "other.sock"\n')
    told = daemon.cli("reload")
    assert told.returncode == 0, told.stderr
    assert told.stderr == "warning: control.socket: takes effect at the next start\n"
    assert daemon.cli("schedules", "pause", "a/kept").returncode == 0


def reload(daemon: DaemonProcess, text: str) -> None:
    """Save as editors do, a new file in the place of the old one, and ask for a reload."""
    fresh = daemon.folder / "config.toml.new"
    fresh.write_text(text)
    fresh.rename(daemon.config)
    daemon.process.send_signal(signal.SIGHUP)


def test_each_change_is_logged_and_was_predicted(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    daemon.config.write_text(CHANGED)
    foretold = json.loads(daemon.cli("check", "--diff", "--json").stdout)["changes"]
    assert foretold == [
        {"schedule": "a/going", "action": "retired", "changes": {}},
        {"schedule": "a/kept", "action": "changed", "changes": {"every": ["1h", "2h"], "jitter": ["0s", "5s"]}},
        {"schedule": "a/coming", "action": "created", "changes": {}},
    ]
    assert "every: 1h -> 2h; jitter: 0s -> 5s" in daemon.cli("check", "--diff").stdout
    reload(daemon, CHANGED)
    daemon.wait_for_log("[config] Reloaded", changed_schedules=3)
    for entry in foretold:
        event = daemon.wait_for_log(f"[config] Schedule {entry['action']}", schedule=entry["schedule"])
        assert event.get("changed") == ("every, jitter" if entry["changes"] else None)
    assert json.loads(daemon.cli("check", "--diff", "--json").stdout)["changes"] == []
    daemon.config.write_text(TWO)
    actions = {one["action"] for one in json.loads(daemon.cli("check", "--diff", "--json").stdout)["changes"]}
    assert actions == {"retired", "changed", "revived"}


def test_a_changed_setting_is_named_without_its_value(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    command = 'command = ["echo", "told"]\ntimeout = "2h"\nenv = { KEY = "sesame" }'
    reload(daemon, TWO.replace('command = ["true"]', command))
    daemon.wait_for_log("[config] Reloaded", changed_schedules=0, changed_settings=3)
    named = {event["setting"] for event in daemon.log() if event["event"] == "[config] Setting changed"}
    assert named == {"agents.a.command", "agents.a.timeout", "agents.a.env.KEY"}
    assert "sesame" not in daemon.log_text()
    (daemon.folder / "token").write_text("0123456789-0123456789")
    daemon.config.write_text(daemon.config.read_text() + '[control]\ntokens = [{ name = "ci", file = "token" }]\n')
    assert daemon.cli("reload").stdout == "control.tokens was changed.\nReloaded, 1 setting changed.\n"
    (daemon.folder / "token").write_text("another-0123456789-0123456789")
    assert daemon.cli("reload").stdout == "control.tokens.ci was changed.\nReloaded, 1 setting changed.\n"
    assert daemon.cli("reload").stdout == "Reloaded, nothing changed.\n"
    daemon.config.write_text(
        TWO.replace("1h", "3h", 1) + "".join(f"[notify.n{i}]\nping = 'http://x'\n" for i in range(120))
    )
    said = daemon.cli("reload").stdout.splitlines()
    assert said[-4:] == [
        "notify.n95 was changed.",
        "... and 24 more settings.",
        "a/kept was changed.",
        "Reloaded, 124 settings and 1 schedule changed.",
    ]


def test_check_diff_names_settings_and_those_that_need_a_restart(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    wait_until((daemon.state / "last-config.toml").exists, what="the copy of the config")
    same = daemon.cli("check", "--diff")
    assert same.stdout.count("None.") == 2
    assert json.loads(daemon.cli("check", "--diff", "--json").stdout)["settings"] == []
    daemon.config.write_text(f'{TWO}\n[control]\nsocket = "other.sock"\n[retention]\ndays = 3\n')
    found = json.loads(daemon.cli("check", "--diff", "--json").stdout)
    assert (found["changes"], found["settings"]) == ([], ["control.socket", "retention.days"])
    assert "control.socket: takes effect at the next start" in found["warnings"]
    said = daemon.cli("check", "--diff")
    assert "retention.days" in said.stdout
    assert "warning: control.socket: takes effect at the next start" in said.stderr
    (daemon.state / "last-config.toml").unlink()
    assert f"no copy of a config in force is in {daemon.state}" in daemon.cli("check", "--diff").stdout
    assert json.loads(daemon.cli("check", "--diff", "--json").stdout)["settings"] is None


def test_check_diff_reports_why_it_cannot_read_the_database(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    wait_until((daemon.state / "last-config.toml").exists, what="the copy of the config")
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.state / "state.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 1")
    found = daemon.cli("check", "--diff")
    assert found.returncode == 1
    assert "is valid." in found.stdout
    assert "which schedules a reload would change cannot be told: " in found.stderr
    assert "has schema 1" in found.stderr
    assert "these other settings" in found.stdout


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_a_closed_state_directory_is_reported_without_a_traceback(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    daemon.stop()
    daemon.state.chmod(0)
    powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"] if os.getuid() == 0 else []
    command = [*powerless, sys.executable, "-m", "daemon", "--config", str(daemon.config), "check", "--diff"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    daemon.state.chmod(0o700)
    assert found.returncode == 1
    assert "is valid." in found.stdout
    assert "what a reload would change cannot be told: " in found.stderr
    assert f"no permission to read {daemon.state}" in found.stderr
    assert "Traceback" not in found.stderr


def test_check_diff_needs_no_database(tmp_path: Path, start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    daemon.stop()
    daemon.config.write_text(TWO.replace('"state"', '"elsewhere"'))
    changes = json.loads(daemon.cli("check", "--diff", "--json").stdout)["changes"]
    assert [change["action"] for change in changes] == ["created", "created"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_half_written_file_changes_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    for length in (len(CHANGED) - 8, CHANGED.index("kept") + 2, 0):
        daemon.config.write_text(CHANGED[:length])
        seen = len(daemon.log())
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda seen=seen: any("Not reloaded" in e["event"] for e in daemon.log()[seen:]))  # type: ignore[misc]
    assert [row["name"] for row in daemon.query("SELECT name FROM schedules WHERE version = 1 ORDER BY 1")] == [
        "going",
        "kept",
    ]


def test_a_failed_reload_is_forgotten_once_the_file_says_again_what_is_in_force(start_daemon: StartDaemon) -> None:
    tokens = '[control]\ntokens = [{ name = "ci", file = "token" }]\n'
    text = TWO + tokens
    token = "0123456789-0123456789\n"  # noqa: S105 - of this test alone
    daemon = start_daemon(TWO)
    (daemon.folder / "token").write_text(token)
    daemon.config.write_text(text)
    assert daemon.cli("reload").returncode == 0

    def amiss() -> str | None:
        found = json.loads(daemon.cli("status", "--json").stdout)["daemon"]["amiss"]
        return None if found is None else str(found)

    daemon.config.write_text(text + "bogus = 1\n")
    assert daemon.cli("reload").returncode == 2
    assert amiss() == "config not reloaded (1 error), see the log"
    daemon.config.write_text(text)
    assert amiss() is None
    (daemon.folder / "token").write_text("short\n")  # the config itself says what is in force
    assert daemon.cli("reload").returncode == 2
    assert amiss() is not None
    (daemon.folder / "token").write_text("another-0123456789-0123456789\n")
    assert amiss() is not None  # a reload would change the token
    (daemon.folder / "token").write_text(token)
    assert amiss() is None


def test_a_file_other_than_the_daemons_is_not_reported_as_reloaded(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    other = daemon.folder / "other.toml"
    other.write_text(CHANGED)
    told = forked.run(["--config", str(other), "reload"], daemon.environment, daemon.folder)
    assert told.returncode == 1
    assert f"pid {daemon.process.pid}, uses {daemon.config}; name that file with --config" in told.stderr
    assert daemon.cli("reload").returncode == 0


def test_a_changed_state_dir_leads_to_the_daemon_as_it_runs_until_its_restart(start_daemon: StartDaemon) -> None:
    """Whether or not something is where it will be, and even if that is the state of another daemon."""
    text = TWO + '[control]\nsocket = "c.sock"\n'
    daemon = start_daemon(text)
    (daemon.folder / "other").mkdir()
    with daemons_in(daemon.folder / "other") as start:
        other = start(TWO)
        for place in ("elsewhere", "other/state"):
            daemon.config.write_text(text.replace('"state"', f'"{place}"'))
            shown = daemon.cli("status")
            assert (shown.returncode, f"pid {daemon.process.pid}" in shown.stdout) == (0, True)
            assert f"the running daemon uses {daemon.state}" in shown.stderr
            assert f"has its state in {daemon.state}, not in" in daemon.cli("doctor").stdout
            assert daemon.cli("schedules", "trigger", "a/kept").returncode == 0
        assert len(daemon.query("SELECT 1 FROM runs WHERE trigger = 'manual'")) == 2
        assert other.query("SELECT 1 FROM runs WHERE trigger = 'manual'") == []
        daemon.config.write_text(text)
        spelt = str(daemon.folder / "other" / ".." / daemon.config.name)
        assert forked.run(["--config", spelt, "status"], daemon.environment, daemon.folder).stderr == ""
        environment = {**daemon.environment, "AGENTCRON_DAEMON__STATE_DIR": str(other.state)}
        told = forked.run(["--config", str(daemon.config), "status"], environment, daemon.folder)
        assert f"pid {other.process.pid}" in told.stdout


def test_a_storm_of_reloads_ends_with_the_last_file(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    for number in range(100):
        reload(daemon, TWO.replace('every = "1h"', f'every = "{number + 2}h"', 1))
    wait_until(lambda: daemon.query("SELECT 1 FROM schedules WHERE every_ms = 101 * 3600000"), what="the last file")
    daemon.wait_for_log("[config] Reloaded")
    reloads = [event for event in daemon.log() if event["event"] == "[config] Reloaded"]
    assert 1 <= len(reloads) <= 100
    row = daemon.query("SELECT version FROM schedules WHERE name = 'kept'")[0]
    revisions = daemon.query("SELECT max(version) AS n FROM schedule_revisions WHERE schedule_id = 1")[0]
    assert row["version"] == revisions["n"]
    assert daemon.stop() == 0


def test_schedules_that_can_start_nothing_any_more_are_named(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO + '[agents.b]\ncommand = ["true"]\n')
    assert daemon.cli("schedules", "create", "b/made", "--every", "7d").returncode == 0
    daemon.config.write_text(TWO)
    text = "b/made cannot start anything: no agent 'b' is in the config"
    assert f"warning: {text}" in daemon.cli("check", "--diff").stderr
    assert f"warning: {text}" in daemon.cli("reload").stderr
    daemon.wait_for_log("[config] Schedule cannot start anything", schedule="b/made", state="no_agent")
    assert "no_agent" in daemon.cli("schedules", "list").stdout


def test_check_finds_a_name_that_would_keep_the_daemon_from_starting(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TWO)
    assert daemon.cli("schedules", "create", "a/made", "--every", "7d").returncode == 0
    daemon.config.write_text(TWO + '[agents.a.schedules.made]\nevery = "1h"\n')
    for is_running in (True, False):
        found = daemon.cli("check")
        assert (found.returncode, "a schedule of this name was created" in found.stderr) == (2, True)
        if is_running:
            daemon.stop()
