"""Hostile agents: what a run does to its supervisor and its records harms only the run itself."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from daemon.agents.process.supervisor import tree
from tests.support.configs import one_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon, processes_of
from tests.support.runs import ended, first_run
from tests.support.shell_agents import beside_each_other, side_by_side
from tests.support.waiting import wait_until

INSTEAD = ["true", "mkfifo status", "mkdir status", "ln -s /dev/zero status", "ln -s ../1/input.txt status"]


def test_the_exit_status_is_known_whatever_an_agent_does_to_its_records(start_daemon: StartDaemon) -> None:
    spoilt = [*(f"cd ..; rm status; {made}" for made in INSTEAD), "rm -rf ../../$AGENTCRON_RUN_ID"]
    runs = side_by_side(start_daemon, [f"{instead}; exit 7" for instead in spoilt], on_interrupt="rerun")
    for instead, run in zip(spoilt, runs, strict=True):
        assert (run["status"], run["exit_code"], run["error"]) == ("failed", 7, "exit status 7"), instead


def test_what_was_planted_in_the_folder_of_a_later_run_costs_that_run_only(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """Whoever opens a pipe that nobody reads or writes waits: a thread of the daemon, or the supervisor."""
    names = ["input.txt", "status", "output.log"]
    (tmp_path / "precious").write_text("precious")
    for number in range(2 * len(names)):
        folder = tmp_path / "state" / "runs" / str(number + 1)
        folder.mkdir(parents=True)
        place = folder / names[number // 2]
        if number % 2:
            os.mkfifo(place)
        else:
            place.symlink_to(tmp_path / "precious")
    daemon = start_daemon(one_agent("cat", schedule={"every": "1s", "input": "x"}))
    daemon.wait_for_run("completed")
    runs = daemon.query("SELECT status, error FROM runs WHERE id <= ? ORDER BY id", 2 * len(names))
    assert {run["status"] for run in runs} == {"failed"}, [tuple(run) for run in runs]
    assert all("cannot prepare the run's folder" in run["error"] for run in runs)
    assert (tmp_path / "precious").read_text() == "precious"


def test_killed_processes_are_waited_for() -> None:
    """On a busy host a killed process is there for some time still."""
    with subprocess.Popen(["sleep", "300"]) as process:
        started = tree.start_of(process.pid)
        assert started is not None
        known = [tree.Process(process.pid, started)]
        assert not tree.wait_for_end(known, 0.05)
        tree.send(known[0], signal.SIGKILL)
        assert tree.wait_for_end(known, 20)
        assert tree.wait_for_end([tree.Process(process.pid, started + 1)], 0)  # another process of that pid


def gated_agents(folder: Path, scripts: Sequence[str]) -> str:
    """Return a config of agents that wait where their scripts say `cat GATE`."""
    for number in range(len(scripts)):
        os.mkfifo(folder / f"gate{number}")
    return beside_each_other([script.replace("GATE", f"{folder}/gate{n}") for n, script in enumerate(scripts)])


def open_gates(folder: Path) -> None:
    for gate in folder.glob("gate*"):
        gate.write_text("")


def is_ours(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def spoil_records(daemon: DaemonProcess) -> list[dict[str, object]]:
    """Return the run of each agent once its command runs and has made away with its record."""
    runs = [first_run(daemon, number, condition="delivered_at IS NOT NULL") for number in range(len(INSTEAD))]
    for run in runs:
        status = daemon.state / f"runs/{run['id']}/status"
        wait_until(lambda status=status: not is_ours(status), what="the records gone")  # type: ignore[misc]
    return runs


def test_the_exit_status_is_known_to_the_next_daemon_too(start_daemon: StartDaemon, tmp_path: Path) -> None:
    text = gated_agents(tmp_path, [f"cd ..; rm status; {made}; cat GATE; exit 7" for made in INSTEAD])
    first = start_daemon(text)
    spoil_records(first)
    first.kill()
    second = start_daemon(text)
    open_gates(tmp_path)
    for number, instead in enumerate(INSTEAD):
        assert first_run(second, number)["exit_code"] == 7, instead


def test_a_run_whose_records_and_daemon_are_lost_is_interrupted(start_daemon: StartDaemon, tmp_path: Path) -> None:
    told = f"echo $AGENTCRON_RUN_ID >> {tmp_path}/starts"
    text = gated_agents(tmp_path, [f"{told}; cd ..; rm status; {made}; cat GATE" for made in INSTEAD])
    first = start_daemon(text)
    pids = [int(str(run["pid"])) for run in spoil_records(first)]
    first.kill()
    open_gates(tmp_path)
    wait_until(lambda: all(tree.start_of(pid) is None for pid in pids), what="the supervisors gone")
    second = start_daemon(text)
    for number, instead in enumerate(INSTEAD):
        assert first_run(second, number)["status"] == "interrupted", instead
    starts = (tmp_path / "starts").read_text().split()
    assert len(starts) == len(set(starts))


def test_a_run_that_spoils_its_records_and_kills_its_supervisor_is_interrupted(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    spoil = "dd if=/dev/zero of=../status bs=4096 count=1; kill -9 $PPID"
    daemon = start_daemon(one_agent(f"echo $AGENTCRON_RUN_ID >> {tmp_path}/starts; {spoil}"))
    assert ended(daemon)["status"] == "interrupted"
    ended(daemon, 2)
    starts = (tmp_path / "starts").read_text().split()
    assert len(starts) == len(set(starts))


NO_OUTPUT = [
    "cd ..; rm output.log; mkfifo output.log",
    "cd ..; rm output.log; mkdir output.log",
    "cd ..; rm output.log; ln -s /etc/passwd output.log",
    "cd ../..; me=$AGENTCRON_RUN_ID; rm -r $me; mkdir else; ln -s /etc/passwd else/output.log; ln -s else $me",
]


def test_logs_shows_nothing_that_an_agent_put_in_the_place_of_its_output(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(beside_each_other(NO_OUTPUT))
    for number, instead in enumerate(NO_OUTPUT):
        shown = daemon.cli("runs", "logs", str(first_run(daemon, number)["id"]))
        assert shown.returncode == 1, instead
        assert shown.stdout == ""
        assert "is no longer the output file" in shown.stderr


def test_a_supervisor_that_is_stopped_does_not_outlive_the_timeout(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("kill -STOP $PPID; sleep 300", timeout="1s", kill_grace="1s"))
    run = ended(daemon)
    assert run["status"] == "failed"
    assert "timeout" in str(run["error"])
    assert processes_of(str(run["idempotency_key"])) == []


def test_a_supervisor_that_is_stopped_can_be_cancelled(start_daemon: StartDaemon, tmp_path: Path) -> None:
    go = tmp_path / "go"  # one that is stopped before it has told of the start is woken
    script = f"until [ -e {go} ]; do sleep 0.02; done; kill -STOP $PPID; sleep 300"
    daemon = start_daemon(one_agent(script, kill_grace="1s"))
    run = daemon.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    go.touch()
    stat = Path(f"/proc/{run['pid']}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", what="a stopped supervisor")
    daemon.cli("runs", "cancel", "1")
    assert ended(daemon)["status"] == "cancelled"
    assert processes_of(run["idempotency_key"]) == []


def test_a_supervisor_ended_from_outside_is_no_cancellation(start_daemon: StartDaemon) -> None:
    run = ended(start_daemon(one_agent("kill -TERM $PPID; sleep 300")))
    assert run["status"] == "interrupted"
    assert "from outside" in str(run["error"])
