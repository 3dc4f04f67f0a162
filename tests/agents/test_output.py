"""The output of a run: bounded, its secrets masked, never held in memory."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.support.configs import config_text, one_agent, shell_agent
from tests.support.daemon_process import StartDaemon
from tests.support.runs import ended, first_run
from tests.support.waiting import wait_until


def test_output_beyond_the_limit_keeps_the_first_and_the_last_part(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("seq 1 20000", max_output="1KiB"))
    run = ended(daemon)
    everything = "".join(f"{n}\n" for n in range(1, 20001))
    kept = daemon.output(1)
    match = re.search(r"\n\[agentcron: ([0-9]+) bytes of output were dropped here\]\n", kept)
    assert match is not None
    assert kept[: match.start()] == everything[:512]
    assert kept[match.end() :] == everything[-512:]
    assert run["output_bytes"] == len(everything)
    assert run["output_dropped"] == int(match[1]) == len(everything) - 1024


def test_output_at_the_edges_of_the_limit(start_daemon: StartDaemon) -> None:
    edges = [(1024, 1024), (1000, 1024), (1025, 1024), (5, 3), (5, 0)]
    agents = {
        f"a{number}": shell_agent(f"head -c {size} /dev/zero | tr '\\0' x", max_output=f"{limit}B")
        for number, (size, limit) in enumerate(edges)
    }
    daemon = start_daemon(config_text(daemon={"max_concurrent_runs": len(edges)}, agents=agents))
    for number, (size, limit) in enumerate(edges):
        run = first_run(daemon, number)
        assert run["output_dropped"] == max(0, size - limit)
        assert daemon.output(int(str(run["id"]))).count("x") == min(size, limit)


def test_secrets_are_masked_across_writes_and_without_a_newline(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2-hunter2\n")
    script = "printf hunter2-; sleep 0.1; printf 'hunter2 '; printf 'plain '; printf hunter2-hun; "
    script += "echo '{\"message\": \"'$KEY'\"}' > $AGENTCRON_RESULT"
    daemon = start_daemon(one_agent(script, env={"KEY": {"file": "key"}, "OTHER": "plain"}))
    run = ended(daemon)
    assert daemon.output(1) == "*** plain hunter2-hun"
    assert run["message"] == "***"
    everything = b"".join(path.read_bytes() for path in daemon.state.rglob("*") if path.is_file())
    assert b"hunter2-hunter2" not in everything + daemon.log_file.read_bytes()


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+([0-9]+)", status)[1])  # type: ignore[index]


def test_a_flood_of_output_grows_neither_daemon_nor_supervisor(start_daemon: StartDaemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    wait = f"cat {gate} >/dev/null"
    flood = f"{wait}; head -c 200000000 /dev/zero | tr '\\0' x; head -c 100000000 /dev/zero; {wait}"
    daemon = start_daemon(one_agent(flood, max_output="1MiB"))
    run = daemon.wait_for_row("SELECT * FROM runs WHERE id = 1 AND delivered_at IS NOT NULL")
    before = [_resident_kib(pid) for pid in (daemon.process.pid, run["pid"])]
    gate.write_text("go")
    ring = daemon.state / "runs/1/output.tail"
    wait_until(lambda: ring.exists() and int.from_bytes(ring.read_bytes()[16:24], "little") > 299_000_000, deadline=60)
    after = [_resident_kib(pid) for pid in (daemon.process.pid, run["pid"])]
    gate.write_text("go")
    assert ended(daemon)["output_bytes"] == 300_000_000
    assert max(now - then for then, now in zip(before, after, strict=True)) < 5 * 1024


@pytest.mark.parametrize("size", [20_000_000, pytest.param(300_000_000, marks=pytest.mark.soak)])
def test_a_flood_in_a_known_format_does_not_grow_the_supervisor(
    start_daemon: StartDaemon, tmp_path: Path, size: int
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    text = "word \u00fc " * 8000
    message = {"id": "m", "content": [{"type": "text", "text": text}], "usage": {"output_tokens": 1}}
    (tmp_path / "line").write_text(json.dumps({"type": "assistant", "message": message}, ensure_ascii=False))
    flood = f'cat {gate} >/dev/null; yes "$(cat {tmp_path}/line)" | head -c {size}; cat {gate} >/dev/null'
    daemon = start_daemon(one_agent(flood, max_output="1MiB", result_format="claude", on_bad_report="ignore"))
    run = daemon.wait_for_row("SELECT * FROM runs WHERE id = 1 AND delivered_at IS NOT NULL")
    before = _resident_kib(run["pid"])
    gate.write_text("go")
    ring = daemon.state / "runs/1/output.tail"
    wait_until(lambda: ring.exists() and int.from_bytes(ring.read_bytes()[16:24], "little") > 0.9 * size, deadline=60)
    after = _resident_kib(run["pid"])
    gate.write_text("go")
    found = ended(daemon)
    assert (found["output_bytes"], found["usage_state"]) == (size, "at_least")
    assert after - before < 8 * 1000
