"""The log: it survives rotation, has levels for the journal, and is bounded in a flood."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon_process import StartDaemon
from tests.support.waiting import DEADLINE, wait_until

TICK = "[agents.a]\ncommand = ['true']\n[agents.a.schedules.s]\nevery = '1s'\n"
FLOOD = """
import structlog
from daemon.log import configure_log
configure_log('info', 'json', None)
for n in range(1000):
    structlog.get_logger().warning('[control] Refused', n=n)
    structlog.get_logger().info('[run] Run started', run_id=n)
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
