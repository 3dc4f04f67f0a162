"""Workspaces under the running daemon: made for each run, cleaned, kept, discarded, and reconciled after a crash."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon.units import parse_instant
from daemon.workspaces import cleanup_task_workspace
from tests.support.api import call
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.git_site import git
from tests.support.site_daemon import config, ended, place_of, trigger
from tests.support.waiting import wait_until


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def age(daemon: DaemonProcess, run: int, hours: int) -> None:
    """Have a run end so many hours ago."""
    script = f"UPDATE runs SET completed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{hours} hours') WHERE id = {run}"
    subprocess.run(["sqlite3", "-cmd", ".timeout 10000", str(daemon.state / "state.db"), script], check=True)


@pytest.mark.usefixtures("origin")
def test_runs_work_in_their_own_clones_that_a_cleanup_saves_and_removes(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config().replace("[agents.a]", "[agents.a]\ngit_author_name = 'Agent A'"))
    good, bad = ended(daemon), ended(daemon, "3")
    for run in (good, bad):
        assert daemon.output(run) == f"## agentcron/{run}\n"
        assert (place_of(daemon, run) / "mine.txt").exists()
        assert git(place_of(daemon, run), "config", "--local", "user.name") == "Agent A"
    listed = daemon.cli("workspaces", "list").stdout
    assert "younger than max_age" in listed
    assert "among the newest 5" in listed
    for run in (good, bad):
        age(daemon, run, 25)
    foreseen = f"Would remove 1 workspace, of run {good}, unless there is more unsaved work than salvage_max.\n"
    assert daemon.cli("workspaces", "clean", "--dry-run").stdout == foreseen
    assert place_of(daemon, good).exists()
    assert daemon.cli("workspaces", "clean").stdout == f"Removed 1 workspace, of run {good}.\n"
    assert not place_of(daemon, good).exists()
    assert place_of(daemon, bad).exists()
    shown = daemon.cli("runs", "show", str(good)).stdout
    assert "to restore the saved work" in shown
    bundle = daemon.state / "runs" / str(good) / "artifacts" / "saved-work" / "work.bundle"
    git(bundle.parent, "clone", "-q", "--mirror", str(bundle), "back")
    assert git(bundle.parent / "back", "show", "agentcron/saved/files:mine.txt") == "mine"
    assert daemon.query("SELECT 1 FROM events WHERE run_id = ? AND type = 'workspace_cleaned'", good)
    daemon.wait_for_log(f"[cleanup] Removing old task {good} (age: 25.0h)")
    daemon.wait_for_log("[cleanup] Removed 1 old task workspace(s)")
    figures = call(daemon, "GET", "/metrics").data.decode()
    assert 'agentcron_workspaces_cleaned_total{result="removed"} 1.0' in figures
    assert 'agentcron_workspaces{environment="site"} 1.0' in figures


@pytest.mark.usefixtures("origin")
def test_what_is_saved_of_an_earlier_attempt_is_known_although_the_next_one_fails(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config(environment="ref = 'nowhere'"))
    first = trigger(daemon)
    daemon.wait_for_run("failed", number=first)
    left = place_of(daemon, first + 1)
    left.mkdir()
    (left / "mine.txt").write_text("mine\n")
    assert trigger(daemon) == first + 1
    daemon.wait_for_run("failed", number=first + 1)
    assert not left.exists()
    run = call(daemon, "GET", f"/runs/{first + 1}").body
    assert "ref 'nowhere' is not a branch" in run["error"]
    assert (run["workspace"]["state"], run["workspace"]["saved"]["files"]) == ("removed", 1)
    assert run["workspace"]["saved"]["restore"]
    saved = daemon.state / "runs" / str(first + 1) / run["workspace"]["saved"]["folder"]
    assert {path.stat().st_mode & 0o077 for path in (saved, *saved.rglob("*"))} == {0}


@pytest.mark.usefixtures("origin")
def test_a_person_discards_keeps_and_unkeeps(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config("sleep $(cat)"))
    run = ended(daemon)
    assert call(daemon, "POST", f"/workspaces/{run}/keep").body["kept"] is True
    age(daemon, run, 100)
    assert call(daemon, "POST", "/workspaces/clean", {"older_than_seconds": 0}).body["removed"] == []
    assert call(daemon, "POST", f"/workspaces/{run}/discard").status == 409
    assert daemon.cli("workspaces", "unkeep", str(run)).returncode == 0
    dry = {"dry_run": True}
    assert call(daemon, "POST", f"/workspaces/{run}/discard", dry).body == {"run_id": run, "removed": False}
    assert daemon.cli("workspaces", "discard", str(run)).returncode == 0
    [event] = daemon.query("SELECT data FROM events WHERE run_id = ? AND type = 'workspace_cleaned'", run)
    assert json.loads(event["data"])["by"] == "root"
    assert not place_of(daemon, run).exists()
    assert call(daemon, "POST", f"/workspaces/{run}/discard").status == 404
    assert call(daemon, "POST", f"/workspaces/{run}/discard", dry).status == 404
    assert call(daemon, "POST", "/workspaces/99/discard").status == 404
    busy = trigger(daemon, "300")
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", busy)
    refused = call(daemon, "POST", f"/workspaces/{busy}/discard")
    assert (refused.status, "in use" in refused.body["message"]) == (409, True)
    assert call(daemon, "GET", "/workspaces").body["total"] == 1
    types = [row["type"] for row in daemon.query("SELECT type FROM events WHERE run_id = ?", run)]
    assert types[-3:] == ["workspace_kept", "workspace_unkept", "workspace_cleaned"]


@pytest.mark.usefixtures("origin")
def test_a_workspace_is_marked_as_in_use_while_its_run_works_also_without_a_daemon(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config("sleep $(cat)"))
    run = trigger(daemon, "300")
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", run)
    daemon.kill()
    folder = os.open(place_of(daemon, run), os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        again = start_daemon(config("sleep $(cat)"))
        assert call(again, "POST", f"/runs/{run}/cancel").status == 200
        again.wait_for_run("cancelled", number=run)
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(folder)


@pytest.mark.usefixtures("origin")
def test_a_quota_takes_the_oldest_that_may_go(start_daemon: StartDaemon) -> None:
    script = "echo x.bin > .gitignore; head -c 2000000 /dev/urandom > x.bin; exit $(cat)"
    daemon = start_daemon(config(script, 'quota = "5MB"\nkeep_errors = 1'))
    runs = [ended(daemon, code) for code in ("3", "0", "0", "0")]
    daemon.wait_for_log("[cleanup] The workspaces of an environment exceed their quota")
    wait_until(lambda: not place_of(daemon, runs[1]).exists() or None, what="the oldest that may go")
    assert place_of(daemon, runs[0]).exists()
    wait_until(lambda: not place_of(daemon, runs[2]).exists() or None, what="the next")
    assert place_of(daemon, runs[3]).exists()


@pytest.mark.usefixtures("origin")
def test_a_start_registers_known_workspaces_and_quarantines_unknown_ones(start_daemon: StartDaemon) -> None:
    first = start_daemon(config())
    known, lost = ended(first), ended(first)
    first.stop()
    tasks = place_of(first, known).parent
    script = f"DELETE FROM workspaces WHERE run_id = {known}"
    subprocess.run(["sqlite3", str(first.state / "state.db"), script], check=True)
    place_of(first, lost).rename(tasks / "stranger")
    (tasks / "777").mkdir()
    for name in (".trash", ".incoming", ".scratch"):
        (first.state / "environments" / name / "left").mkdir(parents=True, exist_ok=True)
    second = start_daemon(config())
    second.wait_for_row("SELECT 1 FROM workspaces WHERE run_id = ? AND state = 'present'", known)
    second.wait_for_row("SELECT 1 FROM workspaces WHERE run_id = ? AND state = 'removed'", lost)
    wait_until(lambda: names_in(tasks) == [str(known)] or None)
    assert names_in(tasks.parent / "quarantine") == ["777", "stranger"]
    for name in ("777", "stranger"):
        second.wait_for_log("Moved away a workspace", path=str(tasks.parent / "quarantine" / name))
    for name in (".trash", ".incoming", ".scratch"):
        assert names_in(first.state / "environments" / name) == []


def test_an_unreachable_repository_fails_the_run_in_its_step(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config())
    run = trigger(daemon)
    row = daemon.wait_for_run("failed", number=run)
    assert "environment site: cannot fetch the repository" in row["error"]
    assert daemon.query("SELECT error FROM steps WHERE run_id = ? AND name = 'workspace'", run)[0]["error"]
    assert daemon.query("SELECT 1 FROM workspaces") == []


def test_a_run_is_cancelled_while_its_workspace_is_made(start_daemon: StartDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/begun\nexec cat {tmp_path}/gate\n")
    ssh.chmod(0o755)
    text = config().replace('repository = "origin"', 'repository = "ssh://localhost/x.git"')
    daemon = start_daemon(text, PATH=f"{ssh.parent}:{os.environ['PATH']}")
    run = trigger(daemon)
    wait_until(lambda: ((tmp_path / "begun").exists() and (tmp_path / "begun").read_text()) or None)
    assert call(daemon, "POST", f"/runs/{run}/cancel").status == 200
    assert "cancelled by root" in daemon.wait_for_run("cancelled", number=run)["error"]
    assert not place_of(daemon, run).exists()
    pid = int((tmp_path / "begun").read_text())
    with contextlib.suppress(ProcessLookupError):  # it lost its parents; its pipe is what would end a real one
        os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("origin")
def test_an_agent_may_not_touch_workspaces_over_the_api(start_daemon: StartDaemon, tmp_path: Path) -> None:
    ask = f"curl -s -o /dev/null -w '%{{http_code}} ' --unix-socket {tmp_path}/c.sock"
    script = (
        f"{ask} http://x/workspaces; {ask} -X POST http://x/workspaces/clean; {ask} -X POST http://x/workspaces/1/keep"
    )
    daemon = start_daemon(config(script))
    run = ended(daemon)
    assert daemon.output(run).split() == ["403", "403", "404"]


@pytest.mark.usefixtures("origin")
def test_what_an_agent_calls_its_folders_stops_neither_the_daemon_nor_other_cleanups(start_daemon: StartDaemon) -> None:
    odd = "mkdir -p ../../../$(printf 'x\\\\351')/tasks/$AGENTCRON_RUN_ID ../$(printf 'y\\\\351')"
    odd += " ../$(printf 'new\\\\nline')"
    daemon = start_daemon(config(f"{odd}; rm -rf .git/objects; exit 0"))
    spoiled = ended(daemon)
    daemon.config.write_text(config())
    assert call(daemon, "POST", "/reload").status == 200
    good = ended(daemon)
    cleaned = call(daemon, "POST", "/workspaces/clean", {"older_than_seconds": 0}).body
    assert (cleaned["removed"], cleaned["failed"]) == ([spoiled, good], [])
    assert len(names_in(place_of(daemon, spoiled).parent.parent / "quarantine")) == 2
    saved = call(daemon, "GET", f"/runs/{spoiled}").body["workspace"]["saved"]
    assert "is not a git folder inside the workspace" in saved["as_it_was"][0]
    assert daemon.stop() == 0
    again = start_daemon(config())
    assert call(again, "GET", "/healthz").status == 200


@pytest.mark.usefixtures("origin")
def test_a_workspace_that_is_just_being_removed_cannot_be_kept(start_daemon: StartDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = diff-files ] && echo > {tmp_path}/begun && cat {tmp_path}/gate\nexec {real} "$@"\n'
    )
    fake.chmod(0o755)
    daemon = start_daemon(config(), PATH=f"{fake.parent}:{os.environ['PATH']}")
    run = ended(daemon)
    with ThreadPoolExecutor() as pool:
        discarded = pool.submit(call, daemon, "POST", f"/workspaces/{run}/discard")
        wait_until(lambda: (tmp_path / "begun").exists() or None, what="the salvage")
        refused = call(daemon, "POST", f"/workspaces/{run}/keep")
        assert (refused.status, "being removed" in refused.body["message"]) == (409, True)
        (tmp_path / "gate").write_text("")
        assert discarded.result().status == 200
    assert not place_of(daemon, run).exists()


@pytest.mark.usefixtures("origin")
def test_a_bad_name_and_a_stray_file_stop_no_cleanup(start_daemon: StartDaemon) -> None:
    script = "[ $(cat) = 0 ] || { mkdir -p $(printf 'caf\\\\351')/.git; touch ../../../stray; ln -s / ../../../link; }"
    daemon = start_daemon(config(script))
    spoilt, good = ended(daemon, "1"), ended(daemon)
    cleaned = call(daemon, "POST", "/workspaces/clean", {"older_than_seconds": 0})
    assert (cleaned.status, cleaned.body["removed"], cleaned.body["failed"]) == (200, [spoilt, good], [])
    assert daemon.wait_for_log("environments/stray/tasks: Not a directory")


@pytest.mark.usefixtures("origin")
def test_a_quota_takes_others_for_those_that_cannot_go(start_daemon: StartDaemon) -> None:
    script = "echo x.bin > .gitignore; head -c 2000000 /dev/urandom > x.bin; "
    script += "[ $(cat) = 0 ] || head -c 3500000 /dev/urandom > y.bin; exit 0"
    daemon = start_daemon(config(script, cleanup='quota = "8MB"\nsalvage_max = "3MB"'))
    runs = [ended(daemon, text) for text in "1000"]
    call(daemon, "POST", "/workspaces/clean", {})
    assert names_in(place_of(daemon, 1).parent) == [str(runs[0]), str(runs[3])]


@pytest.mark.usefixtures("origin")
def test_the_limit_of_salvage_holds_for_the_sweep_and_not_for_a_person(start_daemon: StartDaemon) -> None:
    environment = 'salvage_max = "1MB"\nmax_age = "1h"'
    daemon = start_daemon(config("head -c 2000000 /dev/urandom > x.bin", environment=environment))
    run = ended(daemon)
    age(daemon, run, 2)
    [failed] = call(daemon, "POST", "/workspaces/clean", {}).body["failed"]
    assert "more than salvage_max" in failed["reason"]
    assert call(daemon, "POST", f"/workspaces/{run}/discard").body == {"run_id": run, "removed": True}
    assert (daemon.state / f"runs/{run}/artifacts/saved-work/work.bundle").stat().st_size > 2_000_000


@pytest.mark.usefixtures("origin")
def test_what_a_workspace_took_to_make_counts_for_the_timeout(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    real = shutil.which("git")
    (tmp_path / "bin/git").write_text(f'#!/bin/sh\n[ "$1" != clone ] || sleep 2\nexec {real} "$@"\n')
    (tmp_path / "bin/git").chmod(0o755)
    text = config("sleep 60").replace('kill_grace = "1s"', 'kill_grace = "1s"\ntimeout = "3s"')
    daemon = start_daemon(text, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    run = trigger(daemon)
    row = daemon.wait_for_row("SELECT * FROM runs WHERE id = ? AND completed_at IS NOT NULL", run)
    assert "timeout" in row["error"]
    taken = parse_instant(row["completed_at"]) - parse_instant(row["started_at"])
    assert 3 <= taken.total_seconds() < 10


@pytest.mark.usefixtures("origin")
def test_nothing_of_a_cancelled_preparation_works_on(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    begin = f"echo $$ > {tmp_path}/begun.new; mv {tmp_path}/begun.new {tmp_path}/begun"
    (tmp_path / "bin/cp").write_text(f"#!/bin/sh\n{begin}\nexec sleep 97\n")
    (tmp_path / "bin/cp").chmod(0o755)
    daemon = start_daemon(config(), PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    run = trigger(daemon)
    wait_until((tmp_path / "begun").exists, what="a copy under way")
    pid = int((tmp_path / "begun").read_text())
    assert call(daemon, "POST", f"/runs/{run}/cancel").status == 200
    daemon.wait_for_run("cancelled", number=run)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the copy")


@pytest.mark.usefixtures("origin")
def test_saved_work_is_counted_and_its_commands_follow_the_state_directory(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon(config("head -c 2000000 /dev/urandom > x.bin", cleanup='quota = "1MB"'))
    run = ended(daemon)
    daemon.wait_for_row("SELECT 1 FROM workspaces WHERE run_id = ? AND saved_bytes > 2000000", run)
    [used] = call(daemon, "GET", "/workspaces").body["environments"]
    assert (used["workspaces"], used["bytes"], used["saved_bytes"] > 2_000_000) == (0, 0, True)
    assert "1.9 MiB by saved work" in daemon.cli("status").stdout
    assert "1.9 MiB below" in daemon.cli("doctor").stdout
    assert b'agentcron_saved_work_bytes{environment="site"} 2.00' in call(daemon, "GET", "/metrics").data
    call(daemon, "POST", "/workspaces/clean", {})
    daemon.wait_for_log("[cleanup] The workspaces of an environment exceed their quota", used="1.9 MiB")
    assert daemon.stop() == 0
    moved = tmp_path / "moved here"
    daemon.state.rename(moved)
    daemon.config.write_text(config().replace('state_dir = "state"', 'state_dir = "moved here"'))
    steps = json.loads(daemon.cli("runs", "show", str(run), "--json").stdout)["workspace"]["saved"]["restore"]
    subprocess.run(["sh", "-ec", "\n".join(steps)], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / f"run-{run}" / "x.bin").stat().st_size == 2_000_000


@pytest.mark.usefixtures("origin")
def test_work_that_a_script_saves_is_counted_and_shown(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(config("head -c 2000000 /dev/urandom > x.bin"))
    run = ended(daemon)
    assert cleanup_task_workspace("site", run, daemon.state)
    call(daemon, "POST", "/workspaces/clean", {})
    daemon.wait_for_row("SELECT 1 FROM workspaces WHERE run_id = ? AND saved_bytes > 2000000", run)
    shown = daemon.cli("runs", "show", str(run)).stdout
    assert "0 commits, 1 changed file" in shown
    steps = json.loads(daemon.cli("runs", "show", str(run), "--json").stdout)["workspace"]["saved"]["restore"]
    assert all(step in shown for step in steps)
    subprocess.run(["sh", "-ec", "\n".join(steps)], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / f"run-{run}" / "x.bin").stat().st_size == 2_000_000


@pytest.mark.usefixtures("origin")
def test_a_workspace_is_measured_when_its_run_ends(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(config(f"head -c 2000000 /dev/zero > x.bin; until [ -e {tmp_path}/go ]; do sleep 0.05; done"))
    run = trigger(daemon)
    daemon.wait_for_row("SELECT 1 FROM workspaces WHERE run_id = ?", run)
    assert "0 B, 1 not measured" in daemon.cli("workspaces", "list").stdout
    (tmp_path / "go").touch()
    daemon.wait_for_row("SELECT 1 FROM workspaces WHERE run_id = ? AND bytes > 2000000", run)
    assert "not measured" not in daemon.cli("workspaces", "list").stdout


@pytest.mark.usefixtures("origin")
def test_a_person_can_lose_the_work_of_a_workspace_that_cannot_be_saved(start_daemon: StartDaemon) -> None:
    script = "head -c 2000000 /dev/urandom > x.bin; git init -q inner"
    daemon = start_daemon(config(script, environment='salvage_max = "1MB"'))
    run = ended(daemon)
    call(daemon, "POST", "/workspaces/clean", {"older_than_seconds": 0})
    report = daemon.cli("doctor").stdout
    assert "could not be removed: its unsaved work (1.9 MiB) is more than salvage_max" in report
    dry = daemon.cli("workspaces", "clean", "--older-than", "0s", "--dry-run")
    assert (dry.returncode, dry.stdout.splitlines()[0]) == (1, "Would remove 0 workspaces.")
    assert f"Kept the workspace of run {run}: at the last attempt, its unsaved work" in dry.stdout
    assert f"workspaces discard {run} --without-saving" in report
    refused = daemon.cli("workspaces", "discard", str(run), "--without-saving")  # nobody answers the question
    assert refused.returncode == 1
    assert "2 files, 1.9 MiB" in refused.stderr
    assert "Lost for ever: 1 changed or new file.\n" in refused.stderr
    assert "git repositories in 2 folders: ., inner" in refused.stderr
    assert place_of(daemon, run).exists()
    removed = daemon.cli("workspaces", "discard", str(run), "--without-saving", "--yes")
    assert removed.stdout == f"Removed the workspace of run {run}; its work is lost.\n"
    assert not place_of(daemon, run).exists()
    assert not (daemon.state / f"runs/{run}/artifacts/saved-work").exists()
    row = daemon.query("SELECT data FROM events WHERE run_id = ? AND type = 'workspace_cleaned'", run)[0]
    cleaned = json.loads(row["data"])
    assert (cleaned["saved"], cleaned["by"], cleaned["lost"]) == (None, "root", "1 changed or new file")
