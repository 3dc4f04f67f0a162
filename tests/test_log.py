"""The log: it survives rotation, has levels for the journal, and is bounded in a flood."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemon.log import Flood
from daemon.log_file import LogFile
from tests.support.api import call
from tests.support.configs import config_text
from tests.support.daemon_process import StartDaemon
from tests.support.waiting import DEADLINE, wait_until

STUCK = """
import os, structlog
import daemon.log_file as log_file
from daemon.log import configure_log
log = configure_log('info', 'json', None)
for n in range(4000):
    structlog.get_logger().info('[run] Run started', run_id=n, text='x' * 1000)
os.write(1, b'done')
os.read(0, 1)
"""
FORBIDDEN = """
import daemon.log_file
def unblocked(descriptor): raise PermissionError
daemon.log_file.unblocked = unblocked
"""

TICK = "[agents.a]\ncommand = ['true']\n[agents.a.schedules.s]\nevery = '1s'\n"
FLOOD = """
import structlog
from daemon.log import configure_log
configure_log('info', 'json', None)
for n in range(1000):
    structlog.get_logger().warning('[control] Refused', n=n)
    structlog.get_logger().info('[run] Run started', run_id=n)
    structlog.get_logger().warning('[clock] Fire skipped', schedule=f'a/{n}')
    structlog.get_logger().warning('[clock] Fire skipped', schedule=f'b/{n}', creator='alice')
"""


def test_a_log_that_is_copied_and_truncated_continues_at_its_beginning(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    file = tmp_path / "agentcron.log"
    daemon = start_daemon(f"[log]\nfile = '{file}'\n{TICK}", ready=False)
    wait_until(lambda: file.exists() and "Run completed" in file.read_text(), what="a log")
    kept = file.read_bytes()
    os.truncate(file, 0)
    wait_until(lambda: "Run completed" in file.read_text(), what="more of the log")
    assert file.read_bytes().startswith(b'{"timestamp"')
    assert daemon.stop() == 0
    assert kept


def test_lines_for_the_journal_begin_with_their_level(start_daemon: StartDaemon) -> None:
    """A pipe stands in for the journal's socket: what tells them apart is the variable alone."""
    read_end, write_end = os.pipe()
    found = os.fstat(write_end)
    environment = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
    code = "import structlog\nfrom daemon.log import configure_log\nconfigure_log('debug', 'auto', None)\n" + "".join(
        f"structlog.get_logger().{level}('[daemon] x')\n" for level in ("debug", "info", "warning", "error")
    )
    subprocess.run([sys.executable, "-c", code], stderr=write_end, env=environment, check=True)
    os.close(write_end)
    lines = os.read(read_end, 65536).decode().splitlines()
    os.close(read_end)
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>"]
    assert [json.loads(line[3:])["level"] for line in lines] == ["debug", "info", "warning", "error"]
    daemon = start_daemon(TICK, JOURNAL_STREAM=environment["JOURNAL_STREAM"])  # whose log is a file
    assert not daemon.log_text().startswith("<")


def test_one_line_per_run_is_not_a_flood() -> None:
    printed = subprocess.run([sys.executable, "-c", FLOOD], capture_output=True, text=True, check=True).stderr
    lines = [json.loads(line)["event"] for line in printed.splitlines()]
    assert lines.count("[run] Run started") == 1000
    assert lines.count("[control] Refused") == 200
    assert lines.count("[clock] Fire skipped") == 1000 + 200  # of the config, and of one creator


def test_a_skipped_due_time_names_the_creator_of_its_schedule(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config_text(agents={"a": {"command": ["sleep", "300"]}}))
    new = {"name": "s", "interval_seconds": 1, "initial_input": {"type": "text", "author": "user", "content": "x"}}
    assert call(daemon, "POST", "/agents/a/schedules", new).status == 201
    creator = daemon.query("SELECT creator FROM schedules")[0]["creator"]
    daemon.wait_for_log("[clock] Fire skipped", schedule="a/s", creator=creator)


def test_the_count_of_a_flood_comes_also_when_it_is_over(start_daemon: StartDaemon) -> None:
    slowed = (
        "import daemon.log as log, structlog\nlog._WINDOW = 1.0\nimport daemon.lifecycle.service as service\n"
        "build = service.build\n"
        "def flood(*arguments):\n"
        "    for n in range(500): structlog.get_logger().info('[daemon] again and again')\n"
        "    return build(*arguments)\n"
        "service.build = flood"
    )
    daemon = start_daemon("[agents.a]\ncommand = ['true']\n", slowed=slowed, WATCHDOG_USEC="1000000")
    daemon.wait_for_log("Suppressed repeated log lines", like="[daemon] again and again")
    assert daemon.stop() == 0
    passed = [event for event in daemon.log() if event["event"] == "[daemon] again and again"]
    left_out = [event["lines"] for event in daemon.log() if event["event"] == "[daemon] Suppressed repeated log lines"]
    assert len(passed) + sum(left_out) == 500


@pytest.mark.parametrize(("given", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colours_unless_they_are_disabled(given: dict[str, str], *, coloured: bool) -> None:
    leader, follower = os.openpty()
    code = "import structlog\nfrom daemon.log import configure_log\nconfigure_log('info', 'auto', None)\n"
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | given
    subprocess.run(
        [sys.executable, "-c", code + "structlog.get_logger().info('[daemon] x', a=1)"],
        stderr=follower,
        env=environment,
        check=True,
    )
    os.close(follower)
    shown = os.read(leader, 4096).decode()
    os.close(leader)
    assert "[daemon] x" in shown
    assert ("\x1b[" in shown) == coloured


def test_a_pipe_in_place_of_the_log_file_stops_no_daemon(start_daemon: StartDaemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    daemon = start_daemon(
        "[log]\nfile = 'log'\n[agents.a]\ncommand = ['true']\n[agents.a.schedules.s]\nevery = '1s'\n", ready=False
    )
    wait_until(lambda: log.exists() and "[daemon] Ready" in log.read_text(), what="the daemon's start")
    first = daemon.wait_for_row("SELECT id FROM runs WHERE status = 'completed'")["id"]
    log.rename(tmp_path / "moved")
    os.mkfifo(log)  # the daemon looks every second whether the file was moved, and nobody reads this
    daemon.wait_for_row("SELECT id FROM runs WHERE status = 'completed' AND id > ?", first + 4)
    assert daemon.stop() == 0


def test_a_pipe_that_nobody_reads_is_no_log_file(start_daemon: StartDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    daemon = start_daemon("[log]\nfile = 'log'\n[agents.a]\ncommand = ['true']\n", ready=False)
    assert daemon.process.wait(DEADLINE) == 2
    assert f"log.file: cannot open {tmp_path}/log: No such device or address" in daemon.log_text()


def _stuck_reader(kind: str) -> tuple[int, int]:
    """Return two ends of something that a process may have as standard error: ours, which nobody reads, and its."""
    if kind == "terminal":
        return os.openpty()
    if kind == "socket":
        ours, theirs = socket.socketpair()
        return ours.detach(), theirs.detach()
    ours_of_pipe, theirs_of_pipe = os.pipe()
    if kind == "pipe of another user":  # a thread writes to it, and would report losses early if a line got through
        os.set_blocking(theirs_of_pipe, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(theirs_of_pipe, b"\n" * 4096)
        os.set_blocking(theirs_of_pipe, True)
    return ours_of_pipe, theirs_of_pipe


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal", "pipe of another user"])
def test_a_reader_that_stops_reading_holds_up_no_line(kind: str) -> None:
    """What waits for it is bounded, and comes in order once it reads again; what was lost is counted."""
    ours, theirs = _stuck_reader(kind)
    code = (FORBIDDEN if kind == "pipe of another user" else "") + STUCK
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=theirs) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.read(4) == b"done"
        read = b""
        while b"Lost log lines" not in read or not read.endswith(b"\n"):
            read += os.read(ours, 65536)
        process.communicate(b"x")
    os.close(ours)
    shown = [json.loads(line)["run_id"] for line in read.splitlines() if b"[run] Run started" in line]
    assert shown == list(range(len(shown)))
    assert len(shown) > 900
    [report] = [line for line in read.splitlines() if b"Lost log lines" in line]
    assert str(4000 - len(shown)) in report.decode()
    assert "the reader of standard error has stopped reading" in report.decode()


def test_nobody_reading_standard_error_stops_no_daemon(start_daemon: StartDaemon) -> None:
    slowed = (
        "import contextlib, os\n"
        "ours, theirs = os.pipe()\n"
        "os.set_blocking(theirs, False)\n"
        "with contextlib.suppress(BlockingIOError):\n"
        "    while True: os.write(theirs, b'x' * 4096)\n"
        "os.set_blocking(theirs, True)\n"
        "os.dup2(theirs, 2)"
    )
    daemon = start_daemon(TICK, slowed=slowed, ready=False)
    wait_until(lambda: list(daemon.state.glob("runs/*/output.log")), what="a run")
    assert daemon.stop() == 0


def test_lost_lines_are_counted_once_the_next_one_can_be_written(tmp_path: Path) -> None:
    fifo, reported = tmp_path / "fifo", list[tuple[int, str]]()
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = LogFile(fifo, lambda lines, reason: reported.append((lines, reason)))
    os.close(reader)
    for _ in range(3):
        log.write("lost\n")
    assert log.trouble() == "Broken pipe; log lines lost: 3"
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log.write("read\n")
    assert os.read(reader, 100) == b"read\n"
    os.close(reader)
    assert reported == [(3, "Broken pipe")]
    assert (log.trouble(), log.lost) == (None, 3)


def test_a_report_of_losses_that_is_lost_is_not_counted_and_made_again(tmp_path: Path) -> None:
    fifo, seen = tmp_path / "fifo", list[tuple[int, int]]()
    os.mkfifo(fifo)
    readers = [os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)]

    def report(lines: int, _: str) -> None:
        while len(seen) == 0 and readers:
            os.close(readers.pop())
        log.write("report\n")
        seen.append((lines, log.lost))

    log = LogFile(fifo, report)
    os.close(readers.pop())
    log.write("lost\n")
    for _ in range(2):
        readers.append(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
        log.write("read\n")
        assert log.lost == 1
    os.close(readers.pop())
    assert seen == [(1, 1), (1, 1)]
    assert log.trouble() is None


def test_losses_are_reported_without_the_lock_that_writers_take(tmp_path: Path) -> None:
    fifo, written = tmp_path / "fifo", list[bool]()
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def report(*_: object) -> None:
        other = threading.Thread(target=log.write, args=("from another thread\n",))
        other.start()
        other.join(2)
        written.append(not other.is_alive())

    log = LogFile(fifo, report)
    os.close(reader)
    log.write("lost\n")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log.write("read\n")
    os.close(reader)
    assert written == [True]


def test_destructors_that_log_in_two_threads_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """One runs while a line is counted, the other while one is written."""
    flood, log = Flood(), LogFile(tmp_path / "log", lambda *_: None)
    counting, writing = threading.Event(), threading.Event()

    class Counted:
        def __hash__(self) -> int:
            counting.set()
            writing.wait(DEADLINE)
            log.write("while a line is counted\n")
            return 1

    def write() -> None:
        with log._changed:
            writing.set()
            counting.wait(DEADLINE)
            flood(None, "info", {"event": "while a line is written"})

    threads = [
        threading.Thread(target=write, daemon=True),
        threading.Thread(target=flood, args=(None, "info", {"event": "x", "run_id": Counted()}), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
