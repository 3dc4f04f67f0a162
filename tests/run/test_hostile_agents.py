"""Agents against their keepers: what a run does to its supervisor and its records harms nobody but itself."""

import os
from pathlib import Path

import pytest

from daemon.agents.supervisor import tree
from tests.conftest import StartDaemon
from tests.daemon_process import processes_of, wait_until
from tests.run.test_command import config, ended

INSTEAD = ["true", "mkfifo status", "mkdir status", "ln -s /dev/zero status", "ln -s ../1/input.txt status"]


@pytest.mark.parametrize("instead", [f"cd ..; rm status; {made}" for made in INSTEAD] + ["rm -rf ../../1"])
def test_the_exit_status_is_known_whatever_an_agent_does_to_its_records(
    start_daemon: StartDaemon, instead: str
) -> None:
    daemon = start_daemon(config(f"{instead}; exit 7", 'on_interrupt = "rerun"'))
    run = ended(daemon)
    assert (run["status"], run["exit_code"], run["error"]) == ("failed", 7, "exit status 7")
    assert daemon.stop() == 0


def is_ours(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


@pytest.mark.parametrize("instead", INSTEAD)
def test_the_exit_status_is_known_to_the_next_daemon_too(
    start_daemon: StartDaemon, tmp_path: Path, instead: str
) -> None:
    os.mkfifo(tmp_path / "gate")
    text = config(f"cd ..; rm status; {instead}; cat {tmp_path}/gate; exit 7")
    first = start_daemon(text)
    first.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    wait_until(lambda: not is_ours(first.state / "runs/1/status"), what="the records gone")
    first.kill()
    second = start_daemon(text)
    (tmp_path / "gate").write_text("")
    assert ended(second)["exit_code"] == 7


@pytest.mark.parametrize("instead", INSTEAD)
def test_a_run_whose_records_are_gone_with_its_daemon_is_interrupted(
    start_daemon: StartDaemon, tmp_path: Path, instead: str
) -> None:
    os.mkfifo(tmp_path / "gate")
    text = config(f"echo $AGENTCRON_RUN_ID >> {tmp_path}/starts; cd ..; rm status; {instead}; cat {tmp_path}/gate")
    first = start_daemon(text)
    run = first.wait_for_row("SELECT pid FROM runs WHERE delivered_at IS NOT NULL")
    wait_until(lambda: not is_ours(first.state / "runs/1/status"), what="the records gone")
    first.kill()
    (tmp_path / "gate").write_text("")
    wait_until(lambda: tree.start_of(run["pid"]) is None, what="the supervisor gone")
    second = start_daemon(text)
    assert ended(second)["status"] == "interrupted"
    starts = (tmp_path / "starts").read_text().split()
    assert len(starts) == len(set(starts))


def test_a_run_that_spoils_its_records_and_kills_its_supervisor_is_interrupted(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    spoil = "dd if=/dev/zero of=../status bs=4096 count=1; kill -9 $PPID"
    daemon = start_daemon(config(f"echo $AGENTCRON_RUN_ID >> {tmp_path}/starts; {spoil}"))
    assert ended(daemon)["status"] == "interrupted"
    ended(daemon, 2)
    starts = (tmp_path / "starts").read_text().split()
    assert len(starts) == len(set(starts))


@pytest.mark.parametrize(
    "instead",
    [
        "cd ..; rm output.log; mkfifo output.log",
        "cd ..; rm output.log; mkdir output.log",
        "cd ..; rm output.log; ln -s /etc/passwd output.log",
        "cd ../..; rm -r 1; mkdir else; ln -s /etc/passwd else/output.log; ln -s else 1",
    ],
)
def test_logs_shows_nothing_that_an_agent_put_in_the_place_of_its_output(
    start_daemon: StartDaemon, instead: str
) -> None:
    daemon = start_daemon(config(instead))
    ended(daemon)
    shown = daemon.cli("runs", "logs", "1")
    assert shown.returncode == 1
    assert shown.stdout == ""
    assert "is not the output any more" in shown.stderr


def test_a_supervisor_that_is_stopped_does_not_outlive_the_timeout(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config("kill -STOP $PPID; sleep 300", 'timeout = "1s"', 'kill_grace = "1s"'))
    run = ended(daemon)
    assert run["status"] == "failed"
    assert "timeout" in str(run["error"])
    assert processes_of(str(run["idempotency_key"])) == []


def test_a_supervisor_that_is_stopped_can_be_cancelled(start_daemon: StartDaemon, tmp_path: Path) -> None:
    go = tmp_path / "go"  # one that is stopped before it has told of the start is woken
    script = f"until [ -e {go} ]; do sleep 0.02; done; kill -STOP $PPID; sleep 300"
    daemon = start_daemon(config(script, 'kill_grace = "1s"'))
    run = daemon.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    go.touch()
    stat = Path(f"/proc/{run['pid']}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", what="a stopped supervisor")
    daemon.cli("runs", "cancel", "1")
    assert ended(daemon)["status"] == "cancelled"
    assert processes_of(run["idempotency_key"]) == []


def test_a_supervisor_ended_from_outside_is_no_cancellation(start_daemon: StartDaemon) -> None:
    run = ended(start_daemon(config("kill -TERM $PPID; sleep 300")))
    assert run["status"] == "interrupted"
    assert "from outside" in str(run["error"])
