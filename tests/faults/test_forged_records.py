"""Agents that forge the records of their run and kill their supervisor: the run is interrupted, and nothing is left."""

import os
import signal
import struct
from pathlib import Path

import pytest

from daemon.agents.process.supervisor import tree
from tests.support.configs import config_text, one_agent, triggered_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon, processes_of
from tests.support.database import change_database
from tests.support.runs import ended, triggered
from tests.support.shell_agents import side_by_side
from tests.support.status_files import EXIT, damaged_records, forged_records, line, senseless_records, status_file
from tests.support.waiting import wait_until

REPLACED = {
    "no file": "rm ../status",
    "pipe": "rm ../status; mkfifo ../status",
    "folder": "rm ../status; mkdir ../status",
    "link to a device": "rm ../status; ln -s /dev/zero ../status",
    "link to the database": "rm ../status; ln -s ../../state.db ../status",
    "empty": ": > ../status",
    "zeros": "dd if=/dev/zero of=../status bs=4096 count=1",
    "too large": "truncate -s 64M ../status",
    "its own exec record as exit record": "dd if=../status of=../status bs=1024 count=1 seek=2 conv=notrunc",
}
AT_ONCE = 12


def scripts_in(folder: Path) -> dict[str, str]:
    """Return what an agent does to its status file, by a name for it; files to copy are written to the folder."""
    found = dict(REPLACED)
    for number, (name, record) in enumerate([*senseless_records(), *damaged_records(), *forged_records()]):
        file = folder / f"forged{number}"
        file.write_bytes(status_file(record, line(b'{"version": 1, "pid": 1, "at": 1.0}')))
        found[name] = f"cat {file} > ../status"
    return found


def test_a_forged_record_and_a_killed_supervisor_leave_nothing(start_daemon: StartDaemon, tmp_path: Path) -> None:
    scripts = scripts_in(tmp_path)
    work = f'read -r number; echo "$number" >> {tmp_path}/starts; setsid sleep 300 & sh "{tmp_path}/script$number"'
    command = ["sh", "-c", f"{work} 2> /dev/null; kill -9 $PPID; sleep 300"]
    for number, script in enumerate(scripts.values()):
        (tmp_path / f"script{number}").write_text(script)
    agent = triggered_agent({f"s{number}": str(number) for number in range(len(scripts))}, command=command)
    daemon = start_daemon(config_text(daemon={"max_concurrent_runs": AT_ONCE}, agents={"a": agent}))
    runs = [triggered(daemon, f"a/s{number}") for number in range(len(scripts))]
    for name, number in zip(scripts, runs, strict=True):
        run = ended(daemon, number, deadline=60)
        assert run["status"] == "interrupted", (name, run["error"])
        assert "process(es) that it left were killed" in run["error"], name
        assert processes_of(run["idempotency_key"]) == [], name
    starts = (tmp_path / "starts").read_text().split()
    assert len(starts) == len(set(starts)) == len(scripts)
    assert "Unexpected error" not in daemon.log_text()


def test_the_record_of_another_run_is_of_no_use(start_daemon: StartDaemon, tmp_path: Path) -> None:
    first = tmp_path / "state" / "runs" / "1" / "status"
    script = f"[ $AGENTCRON_RUN_ID = 1 ] || {{ setsid sleep 300 & cat {first} > ../status; kill -9 $PPID; sleep 300; }}"
    daemon = start_daemon(one_agent(script))
    assert ended(daemon, 1)["status"] == "completed"
    run = ended(daemon, 2)
    assert run["status"] == "interrupted"
    assert "damaged or forged" in run["error"]
    assert processes_of(run["idempotency_key"]) == []


TAILS = [
    (0, 0, 5),
    (2**64 - 1, 8, 5),
    (2**40, 8, 5),
    (0, 2**64 - 1, 5),
    (0, 8, 2**64 - 1),
    (0, 2**61, 2**62),
    (0, 8, 5),
]


def test_a_forged_rest_of_the_output_is_only_lost(start_daemon: StartDaemon, tmp_path: Path) -> None:
    scripts = []
    for number, header in enumerate(TAILS):
        (tmp_path / f"tail{number}").write_bytes(struct.pack("<QQQ", *header) + b"12345")
        scripts.append(f"echo begun; cat {tmp_path}/tail{number} > ../output.tail; kill -9 $PPID; sleep 300")
    for header, run in zip(TAILS, side_by_side(start_daemon, scripts), strict=True):
        assert run["status"] == "interrupted", (header, run["error"])
        log = tmp_path / "state" / "runs" / str(run["id"]) / "output.log"
        assert log.stat().st_size < 1000, header


def test_a_run_that_spoils_the_rest_of_its_output_keeps_its_exit_status(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "header").write_bytes(struct.pack("<QQQ", 0, 0, 5))
    total = sum(len(f"{n}\n") for n in range(1, 20001))
    taken = "od -An -t u8 -j 16 -N 8 ../output.tail | tr -d ' '"  # how much of it the supervisor has written
    wait = f'until [ "$({taken})" = {total - 512} ]; do sleep 0.02; done'
    spoil = f"seq 1 20000; {wait}; dd if={tmp_path}/header of=../output.tail conv=notrunc 2> /dev/null; exit 7"
    run = ended(start_daemon(one_agent(spoil, max_output="1KiB")))
    assert (run["status"], run["exit_code"]) == ("failed", 7)


def waiting(daemon: DaemonProcess) -> dict[str, object]:
    """Return the first run once its command and the process that hides from it run."""
    run = dict(daemon.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL"))
    wait_until(lambda: len(processes_of(str(run["idempotency_key"]))) >= 2, what="the processes of the run")
    return run


@pytest.mark.parametrize("earlier_version", [False, True], ids=["this version", "an earlier version"])
def test_what_a_killed_supervisor_left_is_ended_by_the_next_daemon_whatever_the_record_says(
    start_daemon: StartDaemon, *, earlier_version: bool
) -> None:
    text = one_agent("setsid sleep 300 & exec sleep 300")
    first = start_daemon(text)
    run = waiting(first)
    first.kill()
    if earlier_version:  # its supervisors did not authenticate their records
        change_database(first, "UPDATE runs SET settings = json_remove(settings, '$.signed_records')")
    tree.send(tree.Process(int(str(run["pid"])), int(str(run["pid_started"]))), signal.SIGKILL)
    forged = line(str(EXIT).replace("'", '"').replace("None", "null").encode())
    (first.state / "runs" / str(run["id"]) / "status").write_bytes(status_file(forged))
    after = ended(start_daemon(text), int(str(run["id"])))
    assert after["status"] == "interrupted"
    assert processes_of(str(run["idempotency_key"])) == []


def test_the_exit_status_of_a_run_of_an_earlier_version_is_not_lost(start_daemon: StartDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    text = one_agent(f"[ $AGENTCRON_RUN_ID = 1 ] && cat {tmp_path}/gate; exit 7")
    first = start_daemon(text)
    run = first.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    first.kill()
    change_database(first, "UPDATE runs SET settings = json_remove(settings, '$.signed_records')")
    (tmp_path / "gate").write_text("")
    wait_until(lambda: tree.start_of(run["pid"]) != run["pid_started"], what="the end of the supervisor")
    after = ended(start_daemon(text))
    assert (after["status"], after["exit_code"]) == ("failed", 7)


def test_a_process_without_mark_and_session_does_not_outlive_a_killed_supervisor(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """Neither its environment nor its session nor its parent show which run it belongs to."""
    hidden = (
        f'env -i setsid sh -c "echo \\$\\$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 300"'
    )
    wait = f"while [ ! -e {tmp_path}/pid ]; do sleep 0.02; done"
    other = one_agent(f"({hidden} &) ; {wait}; kill -9 $PPID; sleep 300", schedule={"every": "36500d"})
    daemon = start_daemon(other + '[agents.b]\ncommand = ["sleep", "300"]\n[agents.b.schedules.s]\nevery = "36500d"\n')
    beside = triggered(daemon, "b/s")
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", beside)
    run = ended(daemon, triggered(daemon, "a/s"))
    assert run["status"] == "interrupted"
    assert tree.start_of(int((tmp_path / "pid").read_text())) is None
    assert daemon.query("SELECT status FROM runs WHERE id = ?", beside)[0]["status"] == "running"
    assert daemon.query("SELECT count(*) AS n FROM runs")[0]["n"] == 2


BEFORE_THE_MARKER = """
import asyncio
from daemon.runs.delivery_stages import Stages
async def slow(self, run, settings):
    open(FLAG, "w").write("released")
    await asyncio.sleep(3600)
Stages._delivered = slow
"""


def test_a_run_that_wipes_its_records_before_its_start_is_noted_is_not_started_again(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gate")
    wipe = f"cat {tmp_path}/gate; dd if=/dev/zero of=../status bs=4096 count=1; kill -9 $PPID"
    text = one_agent(f"echo $AGENTCRON_RUN_ID >> {tmp_path}/starts; [ $AGENTCRON_RUN_ID != 1 ] || {{ {wipe}; }}")
    first = start_daemon(text, slowed=f"FLAG = {str(tmp_path / 'flag')!r}\n{BEFORE_THE_MARKER}")
    wait_until((tmp_path / "flag").exists, what="the start")
    first.kill()
    run = first.query("SELECT * FROM runs")[0]
    (tmp_path / "gate").write_text("")
    wait_until(lambda: tree.start_of(run["pid"]) != run["pid_started"], what="the end of the supervisor")
    second = start_daemon(text)
    assert ended(second, 1)["status"] == "interrupted"
    ended(second, 2)
    assert (tmp_path / "starts").read_text().split().count("1") == 1


ERROR_AFTER_THE_START = """
from daemon.runs.delivery_stages import Stages
async def fails(self, run, settings):
    raise RuntimeError("injected")
Stages._delivered = fails
"""


def test_no_process_outlives_an_unexpected_error(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("setsid sleep 300 & sleep 300", kill_grace="1s"), slowed=ERROR_AFTER_THE_START)
    run = ended(daemon)
    assert run["error"] == "unexpected error: RuntimeError: injected"
    assert processes_of(run["idempotency_key"]) == []


FEW_STARTS = """
from datetime import timedelta
import daemon.rules.backoff as backoff
backoff._START_AGAIN, backoff._MOST_STARTS = timedelta(milliseconds=1), 4
"""


def test_a_start_that_is_impossible_again_and_again_is_not_retried_forever(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    text = config_text(agents={"a": {"command": [str(program)], "schedules": {"s": {"every": "36500d"}}}})
    with program.open("ab"):  # ETXTBSY
        daemon = start_daemon(text, slowed=FEW_STARTS)
        run = ended(daemon, triggered(daemon, "a/s"))
        assert run["status"] == "failed"
        assert run["error"].startswith("it could not be started: cannot start '")
        failures = daemon.query("SELECT data FROM events WHERE run_id = ? AND type = 'start_failed'", run["id"])
        assert len(failures) == 4
        assert '"again_after_seconds": 0.004' in failures[2]["data"]
        assert "again_after_seconds" not in failures[3]["data"]


def test_a_start_that_becomes_possible_again_succeeds(start_daemon: StartDaemon, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    text = config_text(agents={"a": {"command": [str(program)], "schedules": {"s": {"every": "36500d"}}}})
    with program.open("ab"):
        daemon = start_daemon(text)
        number = triggered(daemon, "a/s")
        daemon.wait_for_row("SELECT 1 FROM events WHERE type = 'start_failed'")
        assert daemon.query("SELECT status FROM runs")[0]["status"] == "pending"
    assert ended(daemon, number)["status"] == "completed"
