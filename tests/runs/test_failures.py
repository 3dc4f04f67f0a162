"""Why runs of known programs failed, seen through a daemon: kinds, further attempts, denied permissions."""

import fcntl
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from daemon.units import parse_instant
from tests.support.api import call
from tests.support.configs import SELDOM, config_text
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.runs import ended, finished, triggered

JSON = ("--output-format", "json")
WROTE = {"tool_name": "Bash", "tool_use_id": "t1", "tool_input": {"command": "echo hi > out.txt"}}


def agent(
    folder: Path, name: str, script: str, *options: str, program: str = "claude", **keys: object
) -> dict[str, Any]:
    """Return an agent whose program has a name that is known, and does what a shell script says."""
    place = folder / name / program
    place.parent.mkdir()
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)
    return {"command": [str(place), *options], **keys, "schedules": {"s": {"every": SELDOM}}}


def prints(*lines: dict[str, Any], code: int = 0) -> str:
    text = "\n".join(map(json.dumps, lines))
    return f"cat <<'END'\n{text}\nEND\nexit {code}"


def failure(status: int, words: str) -> dict[str, Any]:
    return {"type": "result", "is_error": True, "api_error_status": status, "result": words, "session_id": "s-1"}


def daemon_with(start_daemon: StartDaemon, **agents: dict[str, Any]) -> DaemonProcess:
    return start_daemon(config_text(daemon={"max_concurrent_runs": 20}, agents=agents))


def test_denied_permissions_are_shown_wherever_the_run_is(start_daemon: StartDaemon, tmp_path: Path) -> None:
    said = prints({"type": "result", "result": "Done.", "session_id": "s-1", "permission_denials": [WROTE]})
    daemon = daemon_with(
        start_daemon,
        strict=agent(tmp_path, "strict", said, *JSON),
        lax=agent(tmp_path, "lax", said, *JSON, on_denied="ignore"),
    )
    strict, lax = (finished(daemon, f"{name}/s") for name in ("strict", "lax"))
    assert (strict["status"], strict["failure_kind"], strict["denials"]) == ("failed", "denied", 1)
    assert strict["error"] == "1 permission denied: Bash(echo hi > out.txt)"
    assert (lax["status"], lax["failure_kind"], lax["denials"]) == ("completed", None, 1)
    listed = daemon.cli("runs", "list").stdout
    assert "failed (denied), 1 denied" in listed
    assert "completed, 1 denied" in listed
    shown = call(daemon, "GET", f"/runs/{lax['id']}").body
    assert {"what": "Bash(echo hi > out.txt)"} in [event["data"] for event in shown["events"]]
    assert (shown["session"], shown["usage_state"]) == ("s-1", None)
    assert re.search(r"(?m)^usage +unknown$", daemon.cli("runs", "show", str(lax["id"])).stdout)
    assert call(daemon, "GET", "/status").body["usage_unknown_today"] == 2
    assert "of 2 runs today" in daemon.cli("status").stdout
    daemon.wait_for_log("[run] Agent was denied permissions", run_id=lax["id"])
    assert 'agentcron_run_failures_total{kind="denied"} 1.0' in call(daemon, "GET", "/metrics").data.decode()


def test_what_no_attempt_mends_gets_none_and_a_limit_is_waited_for(start_daemon: StartDaemon, tmp_path: Path) -> None:
    reset = int(time.time()) + 3600
    limit = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": reset}}
    cases = {
        "auth": prints(failure(401, "OAuth token has expired"), code=1),
        "config": "echo 'error: unknown option -x' >&2; exit 1",
        "credit": prints(failure(400, "Credit balance is too low"), code=1),
        "overloaded": prints(failure(529, "Overloaded"), code=1),
        "limit": prints(limit, failure(429, "You've hit your session limit"), code=1),
    }
    agents = {
        name: agent(tmp_path, name, script, *JSON, attempts=2, retry_delay="1d") for name, script in cases.items()
    }
    agents["missing"] = {**agents["auth"], "command": [str(tmp_path / "nowhere" / "claude"), *JSON]}
    daemon = daemon_with(start_daemon, **agents)
    runs = {name: ended(daemon, triggered(daemon, f"{name}/s")) for name in agents}
    kinds = {name: (run["status"], run["failure_kind"]) for name, run in runs.items()}
    assert kinds == {
        "auth": ("failed", "auth"),
        "config": ("failed", "config"),
        "missing": ("failed", "config"),
        "credit": ("failed", "quota"),
        "overloaded": ("continued_as_new", "overloaded"),
        "limit": ("continued_as_new", "quota"),
    }
    assert runs["config"]["error"] == "exit status 1: error: unknown option -x"
    assert not [event for event in daemon.log() if "report ignored" in event["event"]]
    following = call(daemon, "GET", f"/runs/{runs['limit']['next_run_id']}").body
    until, _, reason = following["waiting_for"].removeprefix("agent limit is closed until ").partition(": ")
    assert reason == "You've hit your session limit"
    assert 0 <= parse_instant(until).timestamp() - reset <= 86_400 / 5  # a fifth of retry_delay at most
    [shown] = [line for line in daemon.cli("status").stdout.splitlines() if "OAuth token has expired" in line]
    assert "auth" in shown.split()  # beside the schedule, `auth/s`


def test_a_run_that_is_cut_off_tells_what_it_used_and_waited_for(start_daemon: StartDaemon, tmp_path: Path) -> None:
    message = {
        "id": "m1",
        "content": [{"type": "text", "text": "I begin."}],
        "usage": {"input_tokens": 90, "output_tokens": 1},
    }
    retry = {
        "type": "system",
        "subtype": "api_retry",
        "attempt": 2,
        "max_retries": 10,
        "error_status": 529,
        "error": "x",
    }
    script = prints({"type": "assistant", "message": message}, retry).replace("exit 0", "exec sleep 60")
    daemon = daemon_with(start_daemon, a=agent(tmp_path, "a", script, *JSON, idle_timeout="1s"))
    run = finished(daemon, "a/s")
    assert (run["failure_kind"], run["usage_state"], run["input_tokens"]) == ("timeout", "at_least", 90)
    assert str(run["error"]).endswith("(waiting after 529 x, try 2 of 10)")
    assert "at least input_tokens 90" in daemon.cli("runs", "show", str(run["id"])).stdout


def test_a_run_keeps_the_format_that_was_chosen_and_check_says_which(start_daemon: StartDaemon, tmp_path: Path) -> None:
    said = prints({"type": "result", "result": "Done."})
    daemon = daemon_with(
        start_daemon,
        json=agent(tmp_path, "json", said, *JSON),
        plain=agent(tmp_path, "plain", said),
        other=agent(tmp_path, "other", said, program="other"),
    )
    formats = {}
    for name in ("json", "plain", "other"):
        run = finished(daemon, f"{name}/s")
        formats[name] = json.loads(run["settings"])["result_format"]
    assert formats == {"json": "claude", "plain": "none", "other": "none"}
    found = json.loads(daemon.cli("check", "--json").stdout)["result_formats"]
    assert {one["agent"]: one["result_format"] for one in found} == formats
    shown = daemon.cli("check").stdout
    assert "agent json: result_format = claude, which claude prints" in shown
    assert "agent plain: result_format = none, since claude prints plain text without --output-format" in shown
    assert "agent other" not in shown


def test_the_pipes_of_agents_hold_a_mebibyte(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Some programs lose at their end what a pipe cannot hold."""
    code = "import fcntl; print(fcntl.fcntl(1, fcntl.F_GETPIPE_SZ))"
    daemon = daemon_with(start_daemon, a=agent(tmp_path, "a", f'python3 -c "{code}"', program="other"))
    run = finished(daemon, "a/s")
    read_end, write_end = os.pipe()
    try:
        expected = fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 1024 * 1024)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert int(daemon.output(run["id"])) == expected
