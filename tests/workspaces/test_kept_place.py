"""The place that a schedule keeps for its runs: one path, a new clone for each run, and nothing lost."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from daemon.workspaces import cleanup_task_workspace
from tests.support.api import call
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.git_site import commit, git
from tests.support.runs import finished
from tests.support.sessions import Reporter
from tests.support.site_daemon import config, ended, place_of, trigger
from tests.support.waiting import wait_until

KEEP = 'workspace = "keep"'
SCRIPT = "ls; echo $(cat) > mine.txt; pwd"


def kept(daemon: DaemonProcess) -> Path:
    return daemon.state / "environments" / "site" / "tasks" / "schedule-1"


def present(daemon: DaemonProcess) -> dict[int, str]:
    rows = daemon.query("SELECT run_id, path FROM workspaces WHERE state = 'present' ORDER BY run_id")
    return {row["run_id"]: Path(row["path"]).name for row in rows}


def events(daemon: DaemonProcess, run: int) -> list[str]:
    return [row["type"] for row in daemon.query("SELECT type FROM events WHERE run_id = ? AND type LIKE 'work%'", run)]


def test_each_run_has_a_new_clone_in_the_same_place_and_what_it_left_is_saved(
    start_daemon: StartDaemon, origin: Path
) -> None:
    daemon = start_daemon(config(SCRIPT, environment=KEEP))
    first = ended(daemon, "one")
    assert daemon.output(first).split() == ["a.txt", str(kept(daemon))]
    commit(origin, "b.txt", "two\n")
    second = ended(daemon, "two")
    assert daemon.output(second).split() == ["a.txt", "b.txt", str(kept(daemon))]
    assert (kept(daemon) / "mine.txt").read_text() == "two\n"
    assert git(kept(daemon), "symbolic-ref", "--short", "HEAD") == f"agentcron/{second}"
    assert present(daemon) == {second: "schedule-1"}
    saved = daemon.state / "runs" / str(first) / "artifacts" / "saved-work"
    git(saved, "clone", "-q", "--mirror", str(saved / "work.bundle"), "back")
    assert git(saved / "back", "show", "agentcron/saved/files:mine.txt") == "one"
    assert events(daemon, first)[-1] == "workspace_cleaned"
    assert str(kept(daemon)) in daemon.cli("workspaces", "list", "--json").stdout
    refused = call(daemon, "POST", f"/workspaces/{second}/keep")
    assert (refused.status, "the next one makes it anew" in refused.body["message"]) == (409, True)
    logged: list[str] = []
    for name in (str(second), "schedule-1"):
        assert not cleanup_task_workspace("site", name, daemon.state, logged.append)
    assert all("in the place that its schedule keeps" in line for line in logged)
    loss = call(daemon, "POST", f"/workspaces/{second}/discard", {"without_saving": True, "dry_run": True})
    assert "'changed_files': 1" in str(loss.body)
    assert call(daemon, "POST", f"/workspaces/{second}/discard").status == 200
    assert (present(daemon), kept(daemon).exists()) == ({}, False)
    assert ended(daemon, "three") in present(daemon)


@pytest.mark.usefixtures("origin")
def test_a_run_beside_another_works_elsewhere(start_daemon: StartDaemon) -> None:
    script = "pwd; while [ -e ../../../../../gate ]; do sleep 0.02; done"
    daemon = start_daemon(config(script, environment=KEEP))
    gate = daemon.folder / "gate"
    gate.touch()
    runs = [trigger(daemon) for _ in range(2)]
    wait_until(lambda: all("tasks" in daemon.output(run) for run in runs if has_output(daemon, run)), what="output")
    wait_until(lambda: all(has_output(daemon, run) for run in runs), what="both run")
    daemon.kill()
    daemon = start_daemon(daemon.config.read_text())
    third = trigger(daemon)
    wait_until(lambda: has_output(daemon, third), what="the third run")
    gate.unlink()
    for run in (*runs, third):
        daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND status = 'completed'", run)
    places = [Path(daemon.output(run).strip()).name for run in (*runs, third)]
    assert places == ["schedule-1", str(runs[1]), str(third)]
    assert events(daemon, third)[0] == "workspace_of_its_own"


def has_output(daemon: DaemonProcess, run: int) -> bool:
    log = daemon.state / "runs" / str(run) / "output.log"
    return log.exists() and log.stat().st_size > 0


@pytest.mark.parametrize("harm", ["too much work", "a link for its repository"])
@pytest.mark.usefixtures("origin")
def test_what_is_damaged_or_cannot_be_removed_makes_room(start_daemon: StartDaemon, harm: str) -> None:
    daemon = start_daemon(config(SCRIPT, environment=f'{KEEP}\nsalvage_max = "100kB"'))
    first = ended(daemon, "one")
    if harm == "too much work":
        (kept(daemon) / "large").write_bytes(os.urandom(300_000))
    else:
        shutil.rmtree(kept(daemon) / ".git")
        (kept(daemon) / ".git").symlink_to("/nowhere")
    second = ended(daemon, "two")
    assert daemon.output(second).split() == ["a.txt", str(kept(daemon))]
    if harm == "too much work":
        assert (place_of(daemon, first) / "mine.txt").read_text() == "one\n"
        assert present(daemon) == {first: str(first), second: "schedule-1"}
        assert events(daemon, first)[-1] == "workspace_moved"
    else:  # it is saved as it was
        assert (daemon.state / "runs" / str(first) / "artifacts" / "saved-work").exists()
        assert present(daemon) == {second: "schedule-1"}


@pytest.mark.usefixtures("origin")
def test_what_makes_room_and_has_no_place_of_its_own_is_moved_away(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config(SCRIPT, environment=f'{KEEP}\nsalvage_max = "100kB"'))
    first = ended(daemon, "one")
    (kept(daemon) / "large").write_bytes(os.urandom(300_000))
    place_of(daemon, first).mkdir()
    second = ended(daemon, "two")
    assert (daemon.state / "environments/site/quarantine/schedule-1/mine.txt").read_text() == "one\n"
    assert present(daemon) == {second: "schedule-1"}
    assert events(daemon, first)[-1] == "workspace_moved"


@pytest.mark.usefixtures("origin")
def test_the_place_goes_with_its_schedule(start_daemon: StartDaemon) -> None:
    text = config("exit 3", environment=KEEP)
    daemon = start_daemon(text)
    run = ended(daemon)
    assert call(daemon, "POST", "/workspaces/clean", {}).body["removed"] == []
    daemon.config.write_text(text.replace("[agents.a.schedules.s]", "[agents.a.schedules.t]"))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for_row("SELECT 1 FROM schedules WHERE deleted_at IS NOT NULL")
    assert call(daemon, "POST", "/workspaces/clean", {}).body["removed"] == [run]
    assert not kept(daemon).exists()


@pytest.mark.usefixtures("origin")
def test_a_place_that_a_daemon_left_half_way_is_found_by_the_next_one(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config(SCRIPT, environment=KEEP))
    first, second = ended(daemon, "one"), ended(daemon, "two")
    daemon.stop()
    kept(daemon).rename(place_of(daemon, second))  # as a daemon does that is killed before it records that
    (daemon.state / "environments" / "site" / "tasks" / "schedule-77").mkdir()
    daemon = start_daemon(daemon.config.read_text())
    wait_until(lambda: present(daemon) == {second: str(second)}, what="the move is noticed")
    wait_until((daemon.state / "environments/site/quarantine/schedule-77").exists, what="what is nobody's is moved")
    third = ended(daemon, "three")
    assert present(daemon) == {second: str(second), third: "schedule-1"}
    shutil.rmtree(kept(daemon))
    assert "workspace_lost" not in events(daemon, second)
    fourth = ended(daemon, "four")
    assert present(daemon).keys() == {second, fourth}
    assert first not in present(daemon)


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
@pytest.mark.usefixtures("origin")
def test_an_agent_finds_its_session_in_the_place(start_daemon: StartDaemon, tmp_path: Path, rounds: int) -> None:
    reporter = Reporter(tmp_path / "site")
    words = ", ".join(f'"{word}"' for word in reporter.command if isinstance(word, str))
    command = f'command = [{words}, ["--resume", "{{session}}"]]'
    text = config("SCRIPT", environment=KEEP).replace('command = ["sh", "-c", "SCRIPT"]', command)
    text += 'session = "continue"\n'
    daemon = start_daemon(text)
    told = []
    for number in range(rounds):
        reporter.add(f"thing-{number}")
        told.append(finished(daemon, "a/s")["message"])
        daemon.kill()
        daemon = start_daemon(text)
    assert told == [f"thing-{number}" for number in range(rounds)]
    [session] = {row["session"] for row in daemon.query("SELECT session FROM runs")}
    line = f"cd {kept(daemon)} && claude --resume {session}"
    assert line in daemon.cli("runs", "show", str(rounds)).stdout
    done = subprocess.run(["sh", "-c", line.replace("claude", str(reporter.program))], capture_output=True, check=False)
    assert b"nothing new" in done.stdout, done
