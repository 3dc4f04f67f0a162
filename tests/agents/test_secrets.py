"""Secrets that agents and peers repeat, in whatever form of JSON, reach no file, no row, no log line and no target."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.api import call
from tests.support.configs import Table, config_text, triggered_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.peers.processes import peer
from tests.support.runs import ended, finished, triggered
from tests.support.waiting import wait_until

KEY = 'Sé/same="open"\\nZyxwvutsrq'
WINDOW = 8  # characters of the key that are a leak
SCRIPT = r"""
import json, os, sys
key = os.environ["KEY"]
units = key.encode("utf-16-be").hex()
full = "".join("\\u" + units[at:at + 4] for at in range(0, len(units), 4))
short = json.dumps(key)[1:-1].replace("/", "\\/").replace("=", "\\u003D")
nested = json.dumps(json.dumps({"key": key}).replace("/", "\\/"))[1:-1]
forms = " | ".join([full, short, nested, json.dumps(key, ensure_ascii=False)[1:-1]])

def wait():
    open(os.environ["GATE"]).read()

def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

def report(text):
    with open(os.environ["AGENTCRON_RESULT"], "w") as file:
        file.write(text)
"""
CASES = {
    "output": """say('{"said": "%s"}' % forms)""",
    "bytes": """for byte in forms.encode(): sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush()""",
    "claude": """say('{"type": "result", "result": "%s"}' % forms)""",
    "claude-error": """say('{"type": "result", "is_error": true, "result": "%s"}' % forms)""",
    "result": """report('{"message": "%s", "%s": ["%s"]}' % (forms, full, short))""",
    "failure": """report('{"status": "failed", "message": "%s"}' % forms)""",
    "cut": """report('{"message": "%s%s"}' % ("x" * 3990, full))""",
    "twice": """report('{"message": "%s", "message": "done"}' % full)""",
    "no-json": """report('{"message": "%s' % forms)""",
    "permissions": """report('{"permissions": [{"asked": "%s", "answer": "%s"}]}' % (full, short))""",
    "status": """report('{"status": "%s"}' % full)""",
}
ACP = r"""
def answer(result):
    number = json.loads(sys.stdin.readline())["id"]
    say(json.dumps({"id": number, "result": result}))

def update(text):
    say('{"method": "session/update", "params": {"sessionId": "s", "update": %s}}' % text)

def chunk(text):
    update('{"sessionUpdate": "agent_message_chunk", "content": {"text": "%s"}}' % text)

answer({"protocolVersion": 1})
answer({"sessionId": "s"})
number = json.loads(sys.stdin.readline())["id"]
update('{"sessionUpdate": "tool_call", "toolCallId": "1", "title": "%s"}' % forms)
update('{"sessionUpdate": "tool_call", "toolCallId": "2", "title": "%s"}' % ("x" * 1985 + full))
update('{"sessionUpdate": "plan", "entries": [{"content": "%s"}]}' % short)
say("no message: " + "x" * 1970 + key)
say('{"method": "session/request_permission", "id": 7, "params": {"toolCall": {"title": "%s%s"}}}' % ("x" * 1985, full))
sys.stdin.readline()
chunk("x" * 3990 + full[:60])
chunk(full[60:])
say('{"id": %d, "result": {"stopReason": "%s"}}' % (number, sys.argv[1] if sys.argv[1] != "key" else full))
"""


def undone(data: bytes) -> str:
    """Return data with all escapes of JSON undone, however deep."""
    text = data.decode(errors="replace")
    text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    return text.encode(errors="replace").decode().replace("\\", "")


def assert_no_leak(daemon: DaemonProcess, *others: Path) -> None:
    """Check that no part of the key is in any file below the state folder, in the log, or in other files."""
    key = KEY.replace("\\", "")
    parts = {key[at : at + WINDOW] for at in range(len(key) - WINDOW + 1)}
    files = [path for path in daemon.state.rglob("*") if path.is_file()]
    for path in (*files, daemon.log_file, *others):
        text = undone(path.read_bytes())
        assert not [part for part in parts if part in text], path


def config(folder: Path, agents: Mapping[str, Table]) -> str:
    """Return a config with these agents, and a target of notifications that writes into `told`."""
    (folder / "key").write_text(KEY + "\n")
    notify = {"all": {"on": ["failed", "completed"], "command": ["sh", "-c", f"cat >> {folder / 'told'}"]}}
    return config_text(daemon={"max_concurrent_runs": 20}, notify=notify, agents=agents)


def program(folder: Path, name: str, body: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(SCRIPT + body + "\n")
    return path


def commands(folder: Path, prefix: str = "") -> dict[str, Table]:
    """Return an agent for each case."""
    env = {"KEY": {"file": "key"}, "GATE": str(folder / "gate")}
    return {
        name: triggered_agent(
            {"s": "go"},
            command=[sys.executable, str(program(folder, name, prefix + body))],
            env=env,
            result_format="claude" if name.startswith("claude") else "none",
        )
        for name, body in CASES.items()
    }


def told(folder: Path, runs: int) -> Path:
    """Return the file of notifications once so many runs have been reported."""
    path = folder / "told"
    wait_until(lambda: path.exists() and path.read_bytes().count(b'"run_id"') >= runs, what="the notifications")
    return path


UNUSABLE = {"no-json", "status"}
"""Ways to report that fail the run, because the report cannot be used."""


def check(daemon: DaemonProcess, folder: Path, runs: Mapping[str, int]) -> None:
    found = {name: ended(daemon, number, deadline=60) for name, number in runs.items()}
    assert_no_leak(daemon, told(folder, len(runs)))
    assert {name for name, run in found.items() if run["status"] == "failed"} == {"claude-error", "failure", *UNUSABLE}
    assert daemon.output(runs["output"]) == '{"said": "*** | *** | {\\"key\\": \\"***\\"} | ***"}\n'
    for name in ("claude", "claude-error", "result", "failure"):
        assert found[name]["message"] == '*** | *** | {"key": "***"} | ***'
    assert found["cut"]["message"] == "x" * 3990 + "***"
    assert found["twice"]["message"] == "done"
    event = daemon.wait_for_log("Agent requested permission", run_id=runs["permissions"])
    assert (event["asked"], event["answer"]) == ("***", "***")


def test_a_command_can_say_its_secret_in_no_form(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(config(tmp_path, commands(tmp_path)))
    check(daemon, tmp_path, {name: triggered(daemon, f"{name}/s") for name in CASES})


def test_a_command_that_was_adopted_can_say_its_secret_in_no_form(start_daemon: StartDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    text = config(tmp_path, commands(tmp_path, "wait()\n"))
    first = start_daemon(text)
    runs = {name: triggered(first, f"{name}/s") for name in CASES}
    for number in runs.values():
        first.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", number)
    first.kill()
    second = start_daemon(text)
    (tmp_path / "key").unlink()  # only the supervisors know it now
    second.wait_for_log("Adopting the runs of an earlier daemon")
    (tmp_path / "gate").write_text("go")
    check(second, tmp_path, runs)


@pytest.mark.parametrize(("end", "status"), [("end_turn", "completed"), ("key", "failed")])
def test_an_agent_of_acp_can_say_its_secret_in_no_form(
    start_daemon: StartDaemon, tmp_path: Path, end: str, status: str
) -> None:
    command = [sys.executable, str(program(tmp_path, "acp", ACP)), end]
    agent = triggered_agent({"s": "go"}, type="acp", command=command, on_denied="ignore", env={"KEY": {"file": "key"}})
    daemon = start_daemon(config(tmp_path, {"a": agent}))
    run = finished(daemon, "a/s")
    assert run["status"] == status
    assert_no_leak(daemon, told(tmp_path, 1))
    output = daemon.output(run["id"])
    assert '[tool] *** | *** | {"key": "***"} | ***\n' in output
    assert f"[tool] {'x' * 1985}***\n" in output
    if status == "completed":
        assert run["message"] == "x" * 3990 + "***"


PEER_KEY = "sesame/open=Zyxwvutsrq"
MODES = {
    "tell-secrets": "failed",
    "tell-escaped-secrets": "failed",
    "tell-secrets-at-a-cut": "completed",
    "tell-secrets-in-a-redirect": "failed",
    "tell-secrets-in-an-id": "failed",
}


@pytest.mark.parametrize("mode", MODES)
def test_a_peer_can_repeat_its_key_in_no_form(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "KEY", PEER_KEY)
    with peer(tmp_path, "misbehaving") as found:
        keys = {"type": "agentex", "url": f"{found.url}/{mode}", "acp_type": "sync", "api_key": {"file": "key"}}
        slowed = "from daemon.agents.remote import delivery\ndelivery.WAITS = (0.2, 0.2, 0.2, 0.2)\n"
        daemon = start_daemon(config(tmp_path, {"a": triggered_agent({"s": "go"}, **keys)}), slowed=slowed)
        run = finished(daemon, "a/s")
        assert run["status"] == MODES[mode]
        assert "***" in (run["error"] or run["message"])
        assert_no_leak(daemon, told(tmp_path, 1))


WAITING = """
import asyncio
from daemon.agents.remote import agent
async def wait(*_):
    await asyncio.sleep(3600)
agent.RemoteAgent._prepare = wait
"""


def test_a_hook_call_is_masked_also_before_its_run_is_adopted(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "KEY", PEER_KEY)
    with peer(tmp_path, "agentex_plain", "async") as found:
        keys = {"type": "agentex", "url": found.url, "await_completion": True, "api_key": {"file": "key"}}
        text = config(tmp_path, {"a": triggered_agent({"s": "wait"}, **keys)})
        first = start_daemon(text)
        number = triggered(first, "a/s")
        first.wait_for_run("suspended", number=number)
        [sent] = [one["params"]["task"] for one in found.requests() if one["method"] == "event/send"]
        first.kill()
        second = start_daemon(text, slowed=WAITING)
        path = "/hooks/" + sent["task_metadata"]["hook_url"].rpartition("/")[2]
        said = {"status": "failed", "error": f"no {PEER_KEY}", "result": {"key": [PEER_KEY]}}
        assert call(second, "POST", path, said).status == 200
        run = ended(second, number)
        assert run["error"] == "no ***"
        assert_no_leak(second, told(tmp_path, 1))
