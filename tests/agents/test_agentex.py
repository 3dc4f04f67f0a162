"""Agentex agents: built with the SDK where an interpreter has it (Python 3.12 or newer), else on the same wire."""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.agents.base import RunSettings
from daemon.agents.factory import Agents
from daemon.agents.process.supervisor.mask import Secrets
from daemon.agents.remote.agentex_reply import Reply
from daemon.agents.remote.transcript import Transcript
from daemon.config.schema import AgentexAgent as AgentexSettings
from daemon.config.schema import Config
from tests.support.api import call
from tests.support.configs import config_text, triggered_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon, daemons_in
from tests.support.peers.processes import Peer, free_port, peer
from tests.support.runs import cancel, ended, finished, triggered
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("agentex")  # its tests share a daemon

PYTHONS = ("python3.12", "python3.13", "python3.14")


def sdk_python() -> str | None:
    """Return an interpreter that has the SDK."""
    for name in PYTHONS:
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", "import agentex"], capture_output=True, check=False).returncode == 0:
            return path
    return None


@dataclass
class World:
    daemon: DaemonProcess
    sync: Peer
    later: Peer

    def calls(self, method: str, run: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the parameters of the calls of a method for one run."""
        calls = [one for one in (*self.sync.requests(), *self.later.requests()) if one["method"] == method]
        return [one["params"] for one in calls if one["params"]["task"]["name"] == run["name"]]


def text(sync: Peer, later: Peer) -> str:
    of_sync = {"type": "agentex", "acp_type": "sync", "url": sync.url}
    of_later = {"type": "agentex", "url": later.url}
    inputs = {"echo": "echo hello", "boom": "boom", "stream": "stream hello you"}
    return config_text(
        daemon={"max_concurrent_runs": 50},
        control={"listen": "127.0.0.1:{port}", "tokens": [{"name": "ci", "file": "token"}]},
        agents={
            "s": triggered_agent(inputs, **{**of_sync, "api_key": {"file": "key"}, "url": f"{sync.url}/"}),
            "wrong": triggered_agent({"echo": "echo x"}, **of_sync, api_key="no"),
            "later": triggered_agent({"go": "go"}, **of_later, acp_type="async"),
            "hooked": triggered_agent({"hook": "hook", "long": "long"}, **of_later, await_completion=True),
        },
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("agentex")
    (folder / "key").write_text("sesame-open\n")
    (folder / "token").write_text("0123456789abcdef0123456789abcdef\n")
    found = sdk_python()
    module, python = ("agentex_sdk", found) if found else ("agentex_plain", sys.executable)
    with (
        peer(folder, module, "sync", python=python, AGENT_API_KEY="sesame-open") as sync,
        peer(folder, module, "async", python=python) as later,
        daemons_in(folder) as start,
    ):
        yield World(start(text(sync, later).replace("{port}", str(free_port()))), sync, later)


def test_a_sync_agents_reply_is_the_output(world: World) -> None:
    run = finished(world.daemon, "s/echo")
    assert (run["status"], run["message"], run["error"]) == ("completed", "hello", None)
    assert world.daemon.output(run["id"]) == "hello"
    [params] = world.calls("message/send", run)
    assert params["stream"] is True
    assert params["content"]["content"] == "echo hello"
    assert params["content"]["author"] == "user"
    assert params["agent"]["name"] == "s"
    assert params["agent"]["acp_type"] == "sync"
    assert params["task"]["status"] == "RUNNING"
    metadata = params["task"]["task_metadata"]
    assert metadata["trigger_type"] == "manual"
    assert metadata["display_name"] == run["display_name"]
    assert {"schedule_id", "scheduled_fire_id", "fire_time"} <= metadata.keys()


def test_deltas_are_put_together_once(world: World) -> None:
    run = finished(world.daemon, "s/stream")
    assert world.daemon.output(run["id"]) == "hello you"
    assert run["message"] == "hello you"


def test_an_error_in_a_200_is_a_failure_with_its_message(world: World) -> None:
    run = finished(world.daemon, "s/boom")
    assert (run["status"], run["error"]) == ("failed", "message/send: boom (JSON-RPC error -32603)")
    assert run["delivered_at"]


def test_a_wrong_key_is_reported(world: World) -> None:
    assert "Unauthorized" in str(finished(world.daemon, "wrong/echo")["error"])


def test_an_async_agent_gets_task_and_event_and_the_run_ends_with_the_acknowledgement(world: World) -> None:
    run = finished(world.daemon, "later/go")
    assert (run["status"], run["error"]) == ("completed", None)
    [created], [sent] = world.calls("task/create", run), world.calls("event/send", run)
    assert created["task"]["id"] == sent["task"]["id"] == sent["event"]["task_id"]
    event = sent["event"]
    assert event["agent_id"] == sent["agent"]["id"]
    assert event["content"]["content"] == "go"
    assert {"id", "sequence_id", "created_at"} <= event.keys()
    assert "hook_url" not in sent["task"]["task_metadata"]


def test_a_run_that_awaits_completion_is_suspended_until_its_hook_is_called(world: World) -> None:
    run = finished(world.daemon, "hooked/hook")
    changes = "SELECT data ->> 'to' AS status FROM events WHERE run_id = ? AND type = 'status' ORDER BY number"
    assert [row["status"] for row in world.daemon.query(changes, run["id"])] == ["running", "suspended", "completed"]
    assert (run["status"], run["message"]) == ("completed", "from hook")
    assert world.daemon.output(run["id"]) == "from hook\n"
    [sent] = world.calls("event/send", run)
    url = sent["task"]["task_metadata"]["hook_url"]
    assert url.startswith("http://127.0.0.1:")
    assert url.rpartition("/")[2] not in world.daemon.log_text()


def test_a_cancel_is_passed_on(world: World) -> None:
    number = triggered(world.daemon, "hooked/long")
    world.daemon.wait_for_run("suspended", number=number)
    cancel(world.daemon, number)
    run = ended(world.daemon, number)
    assert (run["status"], run["error"]) == ("cancelled", "cancelled by root")
    wait_until(lambda: world.calls("task/cancel", run), what="task/cancel")


def test_attempts_and_tokens_are_counted(world: World) -> None:
    finished(world.daemon, "s/echo")
    assert world.daemon.cli("status", "--json").returncode == 0
    figures = call(world.daemon, "GET", "/metrics").data.decode()
    assert 'agentcron_delivery_attempts_total{result="acknowledged",type="agentex"}' in figures


UPDATES: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "a delta and nothing else": ([{"type": "delta", "index": 0, "delta": {"text_delta": "a"}}], "a"),
    "a whole after its parts": (
        [
            {"type": "delta", "index": 0, "delta": {"text_delta": "a"}},
            {"type": "full", "index": 0, "content": {"type": "text", "content": "ab"}},
        ],
        "ab",
    ),
    "a whole that says something else": (
        [
            {"type": "delta", "index": 0, "delta": {"text_delta": "a"}},
            {"type": "full", "index": 0, "content": {"type": "text", "content": "b"}},
        ],
        "a\nb",
    ),
    "the same index again": ([{"type": "full", "index": 0, "content": {"type": "text", "content": "a"}}] * 2, "a\na"),
    "two messages": (
        [
            {"type": "full", "index": 0, "content": {"type": "text", "content": "a"}},
            {"type": "full", "index": 1, "content": {"type": "text", "content": "b"}},
        ],
        "a\nb",
    ),
    "tools": (
        [
            {"type": "full", "index": 0, "content": {"type": "tool_request", "name": "ls", "arguments": {"p": 1}}},
            {"type": "full", "index": 1, "content": {"type": "tool_response", "name": "ls", "content": "x"}},
            {"type": "full", "index": 2, "content": {"type": "reasoning", "summary": ["hm"]}},
        ],
        '[tool] ls {"p": 1}\n[tool] ls answered: x\n[thought] hm\n',
    ),
    "nonsense": ([{"type": "full", "content": 5}, {"type": "delta"}, {"type": 7}, {"type": ["x"]}, {}], None),
    "an index that is none": (
        [{"type": "full", "index": [1], "content": {"type": "text", "content": "a"}}],
        "a",
    ),
    "a summary that is none": ([{"type": "full", "content": {"type": "reasoning", "summary": 5}}], "[thought] 5\n"),
}


@pytest.mark.parametrize("case", UPDATES)
async def test_updates_become_one_text(tmp_path: Path, case: str) -> None:
    updates, expected = UPDATES[case]
    transcript = Transcript(tmp_path, Secrets(()))
    reply = Reply(transcript)
    for update in updates:
        reply.take(update)
    transcript.finish()
    log = tmp_path / "output.log"
    assert (log.read_text() if log.exists() else None) == expected


async def test_a_folder_that_cannot_be_written_costs_only_the_output(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "gone", Secrets(()))
    await transcript.say("four")
    assert transcript.finish() == (4, 4)


async def test_a_short_whole_costs_nothing_however_long_the_text_is(tmp_path: Path) -> None:
    reply, began = Reply(Transcript(tmp_path, Secrets(()))), time.process_time()
    reply.take({"type": "delta", "index": 0, "delta": {"text_delta": "a" * 10_000_000}})
    for _ in range(300):
        reply.take({"type": "delta", "index": 0, "delta": {"text_delta": "\U00010000"}})
        reply.take({"type": "start", "index": 0, "content": {"content": "b"}})
    assert reply.last_message == "a" * 10_000_000 + "\U00010000" * 300
    assert time.process_time() - began < 1  # 4 s if the text is put together each time


async def test_a_write_that_was_cancelled_writes_to_no_other_file(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path, Secrets(["sesame"]))
    writing = asyncio.create_task(transcript.say("\\u0061" * 1_000_000))
    while not (tmp_path / "output.log").exists():  # noqa: ASYNC110 - a file sends no signal
        await asyncio.sleep(0)
    writing.cancel()
    transcript.finish()
    files = [(tmp_path / str(number)).open("wb") for number in range(5)]  # they get the descriptors
    await asyncio.get_running_loop().shutdown_default_executor()
    for file in files:
        file.close()
    assert not any((tmp_path / str(number)).stat().st_size for number in range(5))


def test_a_key_is_sent_to_the_server_only_that_it_was_written_down_with() -> None:
    settings = AgentexSettings(type="agentex", url="http://new", api_key="sesame")  # type: ignore[arg-type]
    agents = Agents(None, None, None, 0)  # type: ignore[arg-type]
    for url, has_key in (("http://new", True), ("http://old", False)):
        found = agents.remote(RunSettings(kind="agentex", url=url), settings, Config())
        assert (found._read_key is not None) is has_key


def test_a_key_in_the_reply_is_masked(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "agentex_plain", "sync") as sync:
        inputs = {"echo": "echo the key is sesame, sesame"}
        agent = triggered_agent(inputs, type="agentex", acp_type="sync", api_key="sesame", url=sync.url)
        daemon = start_daemon(config_text(agents={"s": agent}))
        run = finished(daemon, "s/echo")
        assert run["message"] == "the key is ***, ***"
        assert daemon.output(run["id"]) == "the key is ***, ***"
