"""However much an agent prints in a known format, nothing that reads it grows: supervisor, daemon and command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.configs import config_text
from tests.support.daemon_process import StartDaemon

AGENT = """\
import json, sys
def say(**content): print(json.dumps(content, ensure_ascii=False), flush=True)
def words(text): say(type="assistant", message={"id": text, "content": [{"type": "text", "text": text}]})
def result(number, size):
    text = f"{number} \\u00e4 \\U0001f600\\n" if size < 500_000 else "an image, as ASCII\\n"
    text += "0123456789abcde\\n" * (size // 16)
    say(type="user", message={"content": [{"type": "tool_result", "tool_use_id": "t", "content": text}]})
folder, left, number = sys.argv[1], int(sys.argv[2]), 0
words("I begin.")
open(f"{folder}/begin").read()
while left > 0:
    number += 1
    size = {1: 3_000_000, 10: 900_000, 20: 450_000}.get(number % 100, 20_000)
    result(number, size)
    words(f"I have seen {number}.")
    left -= size
words("I wait.")
open(f"{folder}/end").read()
say(type="result", result="Done.")
"""
LARGEST_GROWTH = 8 * 1024**2


def memory(pid: int, what: str) -> int:
    """Return bytes of memory of a process: what it uses (`VmRSS`), or has used at most (`VmHWM`)."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("megabytes", [12, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_a_long_stream_grows_no_process(start_daemon: StartDaemon, tmp_path: Path, megabytes: int) -> None:
    for gate in ("begin", "end"):
        os.mkfifo(tmp_path / gate)
    command = [sys.executable, "-c", AGENT, str(tmp_path), str(megabytes * 10**6)]
    keys = {"result_format": "claude", "max_output": "1GiB"}
    daemon = start_daemon(config_text(agents={"a": {"command": command, **keys}}))
    follow = [sys.executable, "-m", "daemon", "--config", str(daemon.config), "runs", "start", "a", "--wait"]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"I begin.\n"
        [run] = daemon.query("SELECT pid FROM runs")
        processes = {"supervisor": run["pid"], "daemon": daemon.process.pid, "command": follower.pid}
        before = {name: memory(pid, "VmRSS") for name, pid in processes.items()}
        for pid in processes.values():
            forget_peak(pid)
        (tmp_path / "begin").write_text("")
        while follower.stdout.readline() not in {b"I wait.\n", b""}:
            pass
        grown = {name: memory(pid, "VmHWM") - before[name] for name, pid in processes.items()}
        (tmp_path / "end").write_text("")
        rest = follower.stdout.read()
        assert follower.wait(60) == 0
    assert rest == b"\nDone.\n"
    assert max(grown.values()) < LARGEST_GROWTH, grown
