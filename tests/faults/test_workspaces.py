"""Promise 5 under faults: kill -9 of the daemon at any moment of a workspace's life, and a full disk."""

import hashlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.workspaces.client import PACKAGE, START
from daemon.workspaces.jobs import PrepareWorkspace, Source
from daemon.workspaces.pipe import encode_job
from tests.support.api import call
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.git_site import AUTHOR, commit, git
from tests.support.small_disks import fill
from tests.support.waiting import pause, wait_until

FILES = 300
CONFIG = """\
[daemon]
state_dir = "{state}"
max_concurrent_runs = 8
[control]
socket = "c.sock"
[cleanup]
every = "{every}"
max_age = "0s"
[environments.site]
mode = "git"
repository = "{origin}"
fetch_every = "0s"
[agents.a]
command = ["sh", "-c", '''{script}''']
environment = "site"
max_concurrent = 8
[agents.a.schedules.s]
every = "{cadence}"
overlap = "allow_all"
catchup = "none"
"""
WORK = (
    'test "$(git ls-files | wc -l)" = "$(find . -name .git -prune -o -type f -print | wc -l)" || exit 9; '
    'test -z "$(git status --porcelain)" || exit 8; git fsck --no-progress || exit 7; '
    "echo $AGENTCRON_RUN_ID > mine.txt; git add mine.txt; git -c user.name=x -c user.email=x@x commit -qm mine"
)


def repository(folder: Path) -> Path:
    place = folder / "origin"
    place.mkdir()
    git(place, "init", "-q", "-b", "main")
    for number in range(FILES):
        (place / f"{number}.txt").write_text(f"{number}\n" * 100)
    git(place, "add", ".")
    commit(place, "last.txt", "last\n")
    return place


def fingerprint(folder: Path) -> str:
    entries = sorted((str(path), path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_kill_9_leaves_no_half_clone_no_lost_work_and_nothing_behind(
    start_daemon: StartDaemon, tmp_path: Path, rounds: int
) -> None:
    origin = repository(tmp_path)
    before = fingerprint(origin)
    facts = {"state": "state", "origin": origin, "script": WORK, "every": "1s"}
    text = CONFIG.format(**facts, cadence="1s")
    for _ in range(rounds):
        daemon = start_daemon(text)
        pause(random.uniform(0.2, 2.5))
        daemon.kill()
    daemon = start_daemon(CONFIG.format(**facts, cadence="20d"))
    unsettled = "SELECT 1 FROM runs WHERE status IN ('pending', 'running') LIMIT 1"
    wait_until(lambda: not daemon.query(unsettled) or None, deadline=90, what="all runs ended")
    runs = daemon.query("SELECT id, status, error FROM runs")
    assert len(runs) >= rounds // 2
    assert [dict(run) for run in runs if run["status"] != "completed"] == []
    assert call(daemon, "POST", "/workspaces/clean", {"older_than_seconds": 0}).body["failed"] == []
    environments = daemon.state / "environments"
    for name in (".trash", ".incoming", ".scratch", "site/tasks"):
        assert entries(environments / name) == [], name
    assert not (environments / "site" / "quarantine").exists()
    for run in runs:
        saved = list((daemon.state / "runs" / str(run["id"]) / "artifacts").glob("saved-work*"))
        assert any(git(place, "bundle", "list-heads", "work.bundle") for place in saved), run["id"]
    assert fingerprint(origin) == before


def helper(folder: Path) -> list[str]:
    """Return the command of a helper for the state in a folder, but for the pid of the daemon that ends it."""
    return [sys.executable, "-I", "-c", START, PACKAGE, str(folder / "state")]


def preparation(folder: Path, origin: Path) -> Path:
    """Write down the job to prepare the workspace of run 1 in `state/`, as a helper reads it."""
    source = Source("site", str(origin), ref=None, fetch_every=0, require_fetch=True, fetch_timeout=60)
    (folder / "state").mkdir()
    (folder / "job").write_bytes(
        encode_job(PrepareWorkspace(source, AUTHOR, run_id=1, umask=0o77, timeout=60, fetches=True))
    )
    return folder / "job"


def test_a_helper_that_comes_too_late_for_its_daemon_does_nothing(tmp_path: Path) -> None:
    """A daemon may be killed while its helper starts; the next daemon has one of its own do the job."""
    job, command = preparation(tmp_path, repository(tmp_path)), helper(tmp_path)
    alive = subprocess.run(["sh", "-c", '"$@" $$ <"$0"; :', job, *command], capture_output=True, text=True, check=True)
    assert '"result"' in alive.stdout, alive.stderr
    shutil.rmtree(tmp_path / "state" / "environments")
    gone = subprocess.run(["sh", "-c", '"$@" $$ <"$0" &', job, *command], capture_output=True, text=True, check=True)
    assert (gone.stdout, gone.stderr) == ("", "")
    assert not (tmp_path / "state" / "environments").exists()


def test_what_a_helper_that_was_killed_left_locked_holds_up_the_next_one_for_a_moment_only(tmp_path: Path) -> None:
    job = preparation(tmp_path, repository(tmp_path))
    (tmp_path / "bin").mkdir()
    stuck = '[ "$1" != fetch ] || { : >"$GIT_DIR/HEAD.lock"; exec sleep 300; }'
    (tmp_path / "bin/git").write_text(f'#!/bin/sh\n{stuck}\nexec {shutil.which("git")} "$@"\n')
    (tmp_path / "bin/git").chmod(0o755)
    lock = tmp_path / "state/environments/site/mirror/HEAD.lock"
    command = [*helper(tmp_path), str(os.getpid())]
    with job.open() as jobs:
        path = f"{tmp_path}/bin:{os.environ['PATH']}"
        first = subprocess.Popen(command, stdin=jobs, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path})
    wait_until(lock.exists, what="the lock that git holds")
    first.kill()
    first.wait()
    with job.open() as jobs:
        second = subprocess.run(command, stdin=jobs, capture_output=True, text=True, check=True, timeout=60)
    assert "removed a lock file that git left in the mirror" in second.stdout
    assert '"result"' in second.stdout


def start_on(start_daemon: StartDaemon, disk: Path, origin: Path, script: str) -> DaemonProcess:
    text = CONFIG.format(state=f"{disk}/state", origin=origin, script=script, cadence="20d", every="20d")
    return start_daemon(text, state=disk / "state")


def trigger(daemon: DaemonProcess) -> int:
    return int(call(daemon, "POST", "/agents/a/schedules/s/trigger").body["id"])


@pytest.mark.parametrize("small_disk", ["60m"], indirect=True)
def test_a_disk_that_fills_up_during_the_clone_fails_the_run_with_that_reason(
    small_disk: Path, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    origin = repository(tmp_path)
    (origin / "big.bin").write_bytes(os.urandom(45_000_000))
    git(origin, "add", "big.bin")
    git(origin, "commit", "-q", "-m", "big")
    daemon = start_on(start_daemon, small_disk, origin, "true")
    run = daemon.wait_for_run("failed", number=trigger(daemon), deadline=60)
    assert "No space left on device" in run["error"]
    environments = daemon.state / "environments"
    wait_until(lambda: not entries(environments / ".incoming") or None)
    assert entries(environments / "site" / "tasks") == []
    assert call(daemon, "GET", "/healthz").status == 200


@pytest.mark.parametrize("small_disk", ["60m"], indirect=True)
def test_a_workspace_stays_while_the_disk_has_no_room_for_its_work(
    small_disk: Path, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_on(start_daemon, small_disk, repository(tmp_path), "head -c 9000000 /dev/urandom > mine.bin")
    run = trigger(daemon)
    daemon.wait_for_run("completed", number=run)
    filler = fill(small_disk)
    refused = call(daemon, "POST", f"/workspaces/{run}/discard")
    assert (refused.status, "cannot be saved" in refused.body["message"]) == (409, True), refused.body
    place = daemon.state / "environments" / "site" / "tasks" / str(run)
    assert (place / "mine.bin").stat().st_size == 9_000_000
    assert call(daemon, "GET", "/healthz").status == 200
    filler.unlink()
    assert call(daemon, "POST", f"/workspaces/{run}/discard").status == 200
    saved = daemon.state / "runs" / str(run) / "artifacts" / "saved-work"
    assert (saved / "work.bundle").stat().st_size > 9_000_000
    assert not place.exists()
