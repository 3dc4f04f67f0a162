"""Runs in their own cgroups: what that ends, counts and limits, and that only what was delegated is touched."""

import contextlib
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.agents.base import RunSettings
from daemon.agents.process.cgroup_delegation import Cgroups
from daemon.agents.process.supervisor import cgroup, tree
from daemon.config.loading import load_config
from daemon.runs.settings import settings_for
from tests.support.booted import removed
from tests.support.configs import config_text, shell_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.waiting import wait_until


def version_2() -> Path | None:
    """Return where cgroups of version 2 are mounted and can be made."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        if system.split()[0] == "cgroup2" and os.access(mount.split()[4], os.W_OK) and os.geteuid() == 0:
            return Path(mount.split()[4])
    return None


@pytest.fixture
def delegated() -> Iterator[Path]:
    """Make a cgroup that is marked as systemd marks one with Delegate=yes."""
    mount = version_2()
    if mount is None:
        pytest.skip("no cgroups of version 2 can be made here (needs root and a writable mount)")
    folder = mount / f"agentcron-test-{uuid.uuid4().hex[:12]}"
    folder.mkdir()
    os.setxattr(folder, "user.delegate", b"1")
    yield folder
    cgroup.write(str(folder), "cgroup.kill", "1")
    wait_until(lambda: removed(folder), what="the end of the cgroup")


def config(**scripts: str) -> str:
    agents = {name: shell_agent(script, kill_grace="1s") for name, script in scripts.items()}
    return config_text(daemon={"max_concurrent_runs": 9}, agents=agents)


def first(daemon: DaemonProcess, agent: str, condition: str) -> dict[str, object]:
    sql = f"SELECT * FROM (SELECT * FROM runs WHERE agent = ? ORDER BY id LIMIT 1) WHERE {condition}"
    return dict(daemon.wait_for_row(sql, agent))


def test_a_run_has_a_cgroup_until_it_ends_and_its_use_is_recorded(start_daemon: StartDaemon, delegated: Path) -> None:
    script = "grep ^0:: /proc/self/cgroup; i=0; while [ $i -lt 600000 ]; do i=$((i+1)); done"
    daemon = start_daemon(config(a=script), cgroup=delegated)
    run = first(daemon, "a", "completed_at IS NOT NULL")
    assert daemon.output(1) == f"0::/{delegated.name}/run-1\n"
    assert float(str(run["cpu_seconds"])) > 0.05
    assert int(str(run["memory_peak_bytes"])) > 500_000
    assert str(daemon.process.pid) in (delegated / "daemon/cgroup.procs").read_text().split()
    assert (delegated / "cgroup.procs").read_text() == ""
    daemon.stop()
    assert not (delegated / "run-1").exists()


def test_what_checks_the_work_of_a_run_is_in_its_cgroup(start_daemon: StartDaemon, delegated: Path) -> None:
    verify = "grep ^0:: /proc/self/cgroup; (env -i setsid sleep 300 > /dev/null 2>&1 &)"
    agent = shell_agent("true", expect={"command": ["sh", "-c", verify]}, kill_grace="0s")
    daemon = start_daemon(config_text(agents={"a": agent}), cgroup=delegated)
    run = first(daemon, "a", "completed_at IS NOT NULL")
    assert (run["status"], run["error"]) == ("completed", None)
    assert daemon.output(1).splitlines()[-1] == f"0::/{delegated.name}/run-1"
    assert not (delegated / "run-1").exists()


def test_nothing_of_a_run_outlives_a_killed_supervisor(start_daemon: StartDaemon, delegated: Path) -> None:
    """What hides from mark and descent is found by its cgroup."""
    hidden = "(env -i setsid sh -c \"trap '' TERM; sleep 300; true\" &) ; sleep 300; true"
    daemon = start_daemon(config(a=hidden), cgroup=delegated)
    run = first(daemon, "a", "delivered_at IS NOT NULL")
    place = str(delegated / "run-1")
    wait_until(lambda: len(cgroup.members(place)) >= 4, what="all processes of the run")
    os.kill(int(str(run["pid"])), signal.SIGKILL)
    run = first(daemon, "a", "completed_at IS NOT NULL")
    assert run["status"] == "interrupted"
    assert not cgroup.members(place)


@pytest.mark.parametrize("place", ["daemon", "run-1/own", "elsewhere"])
def test_what_moves_to_another_cgroup_does_not_outlive_a_killed_supervisor(
    start_daemon: StartDaemon, delegated: Path, tmp_path: Path, place: str
) -> None:
    """Also under the next daemon, to which neither mark nor parent show what it belongs to."""
    there, pid = delegated / place, tmp_path / "pid"
    script = tmp_path / "hidden"
    move = f"mkdir -p {there}; echo $$ > {there}/cgroup.procs"
    script.write_text(f"#!/bin/sh\n{move}; echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 300\n")
    text = config(a=f"(env -i setsid sh {script} &); sleep 300; true", b="exec sleep 300")
    before = start_daemon(text, cgroup=delegated)
    runs = {name: first(before, name, "delivered_at IS NOT NULL") for name in "ab"}
    wait_until(pid.exists, what="the move")
    hidden = int(pid.read_text())
    assert str(hidden) in (there / "cgroup.procs").read_text().split()
    before.kill()
    after = start_daemon(text, cgroup=delegated)
    after.wait_for_log("Adopting the runs")
    os.kill(int(str(runs["a"]["pid"])), signal.SIGKILL)
    assert first(after, "a", "completed_at IS NOT NULL")["status"] == "interrupted"
    assert tree.start_of(hidden) is None
    assert first(after, "b", "pid IS NOT NULL")["status"] == "running"
    assert cgroup.members(str(delegated / f"run-{runs['b']['id']}"))
    assert after.process.poll() is None


def test_only_strangers_that_are_not_older_are_taken_for_what_a_run_left() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 300 & sleep 300"]) as shell:
        try:
            known = wait_until(lambda: tree.descendants(shell.pid), what="its children")
            pids, started = [shell.pid, *(process.pid for process in known)], tree.start_of(shell.pid) or 0
            found = tree.strangers(pids, [], started)
            assert {process.pid for process in found} == set(pids)
            assert tree.strangers(pids, [], started + 1) == []  # what an older process starts is as old
            assert tree.strangers(pids, [shell.pid], started) == []
            assert tree.strangers(pids, [os.getpid()], started) == []
        finally:
            tree.kill(lambda: [*tree.descendants(shell.pid), *tree.alive([shell.pid])])


def test_runs_keep_their_cgroups_through_a_restart(start_daemon: StartDaemon, delegated: Path, tmp_path: Path) -> None:
    text = config(a=f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit 3", b="exec sleep 300")
    before = start_daemon(text, cgroup=delegated)
    ids = {name: int(str(first(before, name, "delivered_at IS NOT NULL")["id"])) for name in "ab"}
    before.kill()
    with contextlib.suppress(OSError):
        (delegated / "leftover").mkdir()  # what somebody else made there is left alone
    after = start_daemon(text, cgroup=delegated)
    (tmp_path / "go").touch()
    ended = first(after, "a", "completed_at IS NOT NULL")
    assert (ended["status"], ended["exit_code"]) == ("failed", 3)
    assert cgroup.members(str(delegated / f"run-{ids['b']}"))
    after.cli("runs", "cancel", str(ids["b"]))
    assert first(after, "b", "completed_at IS NOT NULL")["status"] == "cancelled"
    wait_until(lambda: not (delegated / f"run-{ids['b']}").exists(), what="a removed cgroup")
    assert (delegated / "leftover").exists()


def test_a_cgroup_that_was_not_delegated_is_left_alone(start_daemon: StartDaemon, delegated: Path) -> None:
    os.removexattr(delegated, "user.delegate")
    daemon = start_daemon(config(a="exit 0"), cgroup=delegated)
    assert first(daemon, "a", "completed_at IS NOT NULL")["status"] == "completed"
    assert str(daemon.process.pid) in (delegated / "cgroup.procs").read_text().split()
    assert not (delegated / "daemon").exists()


def test_limits_that_cannot_be_enforced_are_reported(start_daemon: StartDaemon) -> None:
    text = config(a="exit 0", b="exit 0", c="exit 0")
    for agent, limit in [("a", "memory_max = '1GiB'"), ("b", "tasks_max = 50")]:
        text = text.replace(f"[agents.{agent}]", f"[agents.{agent}]\n{limit}")
    event = start_daemon(text).wait_for_log("memory_max, cpu_quota and tasks_max are not enforced")
    assert event["agents"] == "a, b"


def test_a_run_has_a_limit_of_processes_unless_it_began_under_an_earlier_version(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(config(a="exit 0"))
    settings = settings_for(load_config(tmp_path / "config.toml"), "a")
    assert Cgroups(tmp_path, frozenset({"pids"})).spec(1, settings)["tasks_max"] == 4096
    assert RunSettings().tasks_max is None


def test_limits_are_written_as_the_kernel_wants_them(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("memory.max", "cpu.max", "memory.oom.group", "pids.max")]
    for file in files:
        file.touch()
    cgroup.limit(str(tmp_path), 64 * 1024**2, 1.5, 4096)
    assert [file.read_text() for file in files] == ["67108864", "150000 100000", "1", "4096"]


@pytest.mark.parametrize("way_back", [True, False])
def test_limits_are_set_once_the_supervisor_is_out_again(tmp_path: Path, *, way_back: bool) -> None:
    """Without a way back there are none: they would end the supervisor with its run."""
    run, home = tmp_path / "run", tmp_path / "home"
    for folder in (run, home):
        folder.mkdir()
    for name in ("cgroup.procs", "memory.max", "cpu.max", "memory.oom.group", "pids.max"):
        (run / name).touch()
    if way_back:
        (home / "cgroup.procs").touch()
    group = cgroup.Cgroup(
        {"path": str(run), "home": str(home), "memory_max": 64 * 1024**2, "cpu_quota": None, "tasks_max": 7}
    )
    with group.joined():
        assert (run / "cgroup.procs").read_text() == str(os.getpid())
        assert (run / "memory.max").read_text() == ""
    assert (run / "memory.max").read_text() == ("67108864" if way_back else "")
    assert (run / "pids.max").read_text() == ("7" if way_back else "")
    (run / "cgroup.kill").touch()
    group.kill()
    assert (run / "cgroup.kill").read_text() == ("1" if way_back else "")


def test_what_a_run_used_is_read_as_the_kernel_writes_it(tmp_path: Path) -> None:
    (tmp_path / "memory.peak").write_text("1048576\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n")
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 1\n")
    found = cgroup.Cgroup({"path": str(tmp_path), "home": "", "memory_max": None, "cpu_quota": None}).usage()
    assert found == {"memory_peak": 1048576, "cpu_seconds": 1.5, "oom_kills": 2}
