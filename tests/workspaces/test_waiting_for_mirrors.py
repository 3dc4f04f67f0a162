"""A run that waits for its mirror holds no slot, and the status says what waits for what."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.api import call
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.git_site import commit, git
from tests.support.ssh_remotes import SshRemotes, add_submodule, head
from tests.support.waiting import wait_until

CONFIG = """\
[daemon]
state_dir = "state"
max_concurrent_runs = 1
[control]
socket = "c.sock"
[environments.site]
mode = "git"
repository = "ssh://localhost/origin"
fetch_every = "{fetch_every}"
{environment}
[agents.a]
command = ["sh", "-c", "cat *.txt"]
environment = "site"
max_concurrent = 8
[agents.a.schedules.s]
every = "20d"
[agents.b]
command = ["true"]
[agents.b.schedules.s]
every = "20d"
"""


class Remote:
    """The origin, reached by a program that stands for ssh and that waits as long as it is told to hang."""

    def __init__(self, folder: Path, origin: Path) -> None:
        self.origin = origin
        self.fetches = folder / "fetches"
        self._hangs = folder / "hangs"
        program = folder / "ssh"
        program.write_text(
            f"#!/bin/sh\necho $$ >>{self.fetches}\n[ ! -p {self._hangs} ] || cat {self._hangs} >/dev/null 2>&1\n"
            f"exec git upload-pack {origin}\n"
        )
        program.chmod(0o755)
        self.environment = {"GIT_SSH_COMMAND": str(program)}

    def hang(self) -> None:
        os.mkfifo(self._hangs)  # to wait at a pipe takes no CPU time, which would pass for work
        self.fetches.unlink(missing_ok=True)

    def answer(self) -> None:
        with contextlib.suppress(OSError):  # nobody waits
            os.close(os.open(self._hangs, os.O_WRONLY | os.O_NONBLOCK))
        self._hangs.unlink()

    def is_asked(self) -> bool:
        return self.fetches.exists()


@pytest.fixture
def remote(tmp_path: Path, origin: Path) -> Remote:
    return Remote(tmp_path, origin)


def trigger(daemon: DaemonProcess, agent: str) -> int:
    return int(call(daemon, "POST", f"/agents/{agent}/schedules/s/trigger").body["id"])


def settings(fetch_every: str = "0s", environment: str = "") -> str:
    return CONFIG.format(fetch_every=fetch_every, environment=environment)


def test_a_run_that_waits_for_a_fetch_holds_no_slot(start_daemon: StartDaemon, remote: Remote) -> None:
    daemon = start_daemon(settings(), **remote.environment)
    daemon.wait_for_run("completed", number=trigger(daemon, "a"))
    remote.hang()
    waiting = [trigger(daemon, "a") for _ in range(3)]
    wait_until(remote.is_asked, what="a fetch")
    daemon.wait_for_run("completed", number=trigger(daemon, "b"))
    [wait] = call(daemon, "GET", "/status").body["waits"]
    assert (wait["environment"], wait["waits_for"], wait["runs"][0]) == ("site", "fetch", waiting[0])
    assert "site: for the fetch of its mirror, since" in daemon.cli("status").stdout
    assert call(daemon, "POST", f"/runs/{waiting[0]}/cancel").status == 200
    daemon.wait_for_run("cancelled", number=waiting[0])
    commit(remote.origin, "a.txt", "two\n")
    remote.answer()
    for run in waiting[1:]:
        daemon.wait_for_run("completed", number=run)
        assert daemon.output(run) == "two\n"
    assert call(daemon, "GET", "/status").body["waits"] == []


def test_runs_that_wait_for_a_submodule_hold_no_slot(start_daemon: StartDaemon, tmp_path: Path) -> None:
    remotes = SshRemotes(tmp_path / "remotes")
    add_submodule(remotes.make("origin"), "lib", "../lib", head(remotes.make("lib")))
    remotes.hang("lib")
    daemon = start_daemon(settings(), **remotes.environment)
    waiting = [trigger(daemon, "a") for _ in range(4)]
    wait_until(lambda: "lib" in remotes.asked(), what="a call of the submodule's remote")
    daemon.wait_for_run("completed", number=trigger(daemon, "b"))
    [wait] = call(daemon, "GET", "/status").body["waits"]
    assert (wait["environment"], wait["waits_for"], wait["runs"][0]) == ("site", "submodules", waiting[0])
    assert "site: for its submodules, since" in daemon.cli("status").stdout
    assert call(daemon, "POST", f"/runs/{waiting[0]}/cancel").status == 200
    daemon.wait_for_run("cancelled", number=waiting[0])
    remotes.answer("lib")
    for run in waiting[1:]:
        daemon.wait_for_run("completed", number=run)
    assert (daemon.state / f"environments/site/tasks/{run}/lib/name.txt").exists()
    assert call(daemon, "GET", "/status").body["waits"] == []


def test_runs_fail_with_the_reason_why_a_submodule_cannot_be_fetched(start_daemon: StartDaemon, tmp_path: Path) -> None:
    remotes = SshRemotes(tmp_path / "remotes")
    add_submodule(remotes.make("origin"), "lib", "../lib", head(remotes.make("lib")))
    remotes.hang("lib")
    daemon = start_daemon(settings(environment='fetch_timeout = "1s"'), **remotes.environment)
    run = daemon.wait_for_run("failed", number=trigger(daemon, "a"))
    reason = "cannot fetch the submodule 'lib': git fetch made no progress for 1 s"
    assert run["error"] == f"environment site: {reason}"


def test_a_stop_does_not_wait_for_a_fetch(start_daemon: StartDaemon, remote: Remote) -> None:
    daemon = start_daemon(settings(), **remote.environment)
    remote.hang()
    run = trigger(daemon, "a")
    wait_until(remote.is_asked, what="a fetch")
    assert daemon.stop() == 0
    asked = int(remote.fetches.read_text().split()[0])
    wait_until(lambda: not Path(f"/proc/{asked}").exists(), what="the end of the fetch")
    remote.answer()
    start_daemon(settings(), **remote.environment).wait_for_run("completed", number=run)


def test_runs_share_a_fetch_that_is_recent_and_fail_with_its_reason(start_daemon: StartDaemon, remote: Remote) -> None:
    limits = 'require_fetch = true\nfetch_timeout = "1s"'
    daemon = start_daemon(settings("1h", limits), **remote.environment)
    remote.hang()
    run = daemon.wait_for_run("failed", number=trigger(daemon, "a"))
    assert run["error"] == "environment site: cannot fetch the repository: git fetch made no progress for 1 s"
    remote.answer()
    daemon.wait_for_run("completed", number=trigger(daemon, "a"))
    remote.hang()
    for _ in range(2):
        daemon.wait_for_run("completed", number=trigger(daemon, "a"))
    assert not remote.is_asked()


def test_a_mirror_of_many_packs_is_repacked_by_the_cleanup(start_daemon: StartDaemon, remote: Remote) -> None:
    daemon = start_daemon(settings("1h"), **remote.environment)
    daemon.wait_for_run("completed", number=trigger(daemon, "a"))
    mirror = daemon.state / "environments/site/mirror"
    script = "for n in $(seq 25); do echo $n | git hash-object -w --stdin | git pack-objects -q objects/pack/pack; done"
    subprocess.run(["sh", "-ec", script], cwd=mirror, check=True, capture_output=True)
    git(mirror, "update-ref", "refs/agentcron/runs/1/x", "HEAD")
    call(daemon, "POST", "/workspaces/clean", {})
    daemon.wait_for_log("[cleanup] Repacked the mirror of an environment", name="site")
    assert len(list(mirror.glob("objects/pack/*.pack"))) < 5
    assert "refs/agentcron/runs/1/x" in git(mirror, "for-each-ref")
    daemon.wait_for_run("completed", number=trigger(daemon, "a"))
    call(daemon, "POST", "/workspaces/clean", {})
    assert daemon.log_text().count("Repacked the mirror") == 1
