"""Agents that speak the Agent Client Protocol, built with its own SDK: what they tell, ask, and how they end."""

import shlex
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support import acp_client
from tests.support.configs import Table, config_text, triggered_agent
from tests.support.daemon_process import DaemonProcess, daemons_in, processes_of
from tests.support.runs import cancel, ended, finished, triggered
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("acp")  # its tests share a daemon

WORDS = {
    "echo": "echo hello you",
    **{word: word for word in ("tools", "permit", "files", "cwd", "refuse", "tokens", "usage", "crash", "long")},
    "stubborn": "stubborn",
}

SDK = shlex.join(acp_client.SDK)


def acp(inputs: Mapping[str, str], *command: str, **keys: object) -> Table:
    return triggered_agent(inputs, type="acp", command=command, kill_grace="4s", **keys)


def text(folder: str = "/nowhere") -> str:
    child = f"(trap 'touch {folder}/ended; exit' TERM; touch {folder}/there; while :; do sleep 0.1; done) &"
    verdict = """echo '{"status": "failed", "message": "my own word"}' > $AGENTCRON_RESULT"""
    old = """read x; echo '{"id": 1, "result": {"protocolVersion": 9}}'; sleep 60"""
    strict = {"answer": True, "command": ["false"]}
    agents = {
        "a": acp(WORDS, *SDK.split()),
        "yes": acp({"permit": "permit", "often": "permit 120"}, *SDK.split(), permissions="allow"),
        "none": acp({"echo": "echo"}, "no-such-agent"),
        "cat": acp({"echo": "echo"}, "cat"),
        "old": acp({"echo": "echo"}, "sh", "-c", old),
        "parent": acp({"echo": "echo x"}, "sh", "-c", f"{child} exec {SDK}"),
        "judge": acp({"usage": "usage"}, "sh", "-c", f"{verdict}; exec {SDK}"),
        "unfit": acp({"go": "go"}, *acp_client.PLAIN, "lists", mode="yolo", attempts=3),
        "strict": acp({"echo": "echo hi", "say": "nothing"}, *SDK.split(), expect=strict),
        "noisy": acp({"echo": "echo quiet"}, "sh", "-c", f"echo starting up; exec {SDK}"),
    }
    return config_text(daemon={"max_concurrent_runs": 20}, agents=agents)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("acp")
    with daemons_in(folder) as start:
        yield start(text(str(folder)))


def in_turn(daemon: DaemonProcess, number: int) -> None:
    """Wait until a run's session has begun its turn."""
    log = daemon.state / "runs" / str(number) / "output.log"
    wait_until(lambda: log.exists() and "started" in log.read_text(), what="the turn")


def test_words_become_the_output_and_the_message(daemon: DaemonProcess) -> None:
    run = finished(daemon, "a/echo")
    assert (run["status"], run["message"], run["exit_code"]) == ("completed", "hello you", 0)
    assert daemon.output(run["id"]) == "hello you\n"
    assert run["delivered_at"]


def test_what_is_expected_of_an_agent(daemon: DaemonProcess) -> None:
    run = finished(daemon, "strict/echo")
    assert (run["status"], run["message"], run["error"]) == ("failed", "hi", "expected false to succeed: exit status 1")
    assert finished(daemon, "strict/say")["error"] == "expected an answer: there is none"


def test_thoughts_plans_and_tool_calls_are_legible(daemon: DaemonProcess) -> None:
    run = finished(daemon, "a/tools")
    assert daemon.output(run["id"]).splitlines() == [
        "[thought] Let me look.",
        "[plan]",
        "  [x] Look",
        "  [ ] Answer",
        "[tool] List files (read, in_progress)",
        "[tool] List files (completed)",
        "  one file",
        "There is one file.",
    ]
    assert run["message"] == "There is one file."


@pytest.mark.parametrize(("address", "answer"), [("a/permit", "reject"), ("yes/permit", "allow")])
def test_permissions_are_answered_as_the_config_says_and_logged(
    daemon: DaemonProcess, address: str, answer: str
) -> None:
    run = finished(daemon, address)
    assert daemon.output(run["id"]).splitlines() == [f"[permission] Run make: {answer}_once", f"selected {answer}"]
    denied = answer == "reject"
    assert (run["status"], run["failure_kind"]) == (("failed", "denied") if denied else ("completed", None))
    assert (run["error"], run["denials"]) == ("1 permission denied: Run make" if denied else None, int(denied))
    event = daemon.wait_for_log("Agent requested permission", run_id=run["id"])
    assert (event["asked"], event["answer"]) == ("Run make", f"{answer}_once")


def test_an_agent_that_asks_forever_does_not_flood_the_log(daemon: DaemonProcess) -> None:
    run = finished(daemon, "yes/often")
    asked = "[run] Agent requested permission"
    daemon.wait_for_log(asked, run_id=run["id"], asked="21 more", answer="see the output")
    said = [event for event in daemon.log() if event["event"] == asked and event["run_id"] == run["id"]]
    assert len(said) == 100
    assert daemon.output(run["id"]).count("[permission] Run make") == 120


def test_neither_files_nor_terminals_are_offered(daemon: DaemonProcess) -> None:
    assert "error -32601" in str(finished(daemon, "a/files")["message"])


def test_the_session_works_in_the_workspace(daemon: DaemonProcess) -> None:
    run = finished(daemon, "a/cwd")
    assert run["message"] == str(daemon.state / "runs" / str(run["id"]) / "work")


def test_usage_is_stored(daemon: DaemonProcess) -> None:
    run = finished(daemon, "a/usage")
    assert (run["input_tokens"], run["output_tokens"], run["cost_usd"]) == (5, 7, 0.25)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("a/refuse", "the agent refused to continue (refusal)"),
        ("a/tokens", "the agent stopped: it reached its token limit (max_tokens)"),
        ("a/crash", "the agent ended with exit status 3 before it answered session/prompt"),
        ("none/echo", "cannot start 'no-such-agent': No such file or directory"),
        ("cat/echo", "initialize"),
        ("old/echo", "the agent speaks ACP version 9, not 1"),
    ],
)
def test_other_ends_are_failures_with_their_reason(daemon: DaemonProcess, address: str, reason: str) -> None:
    run = finished(daemon, address)
    assert run["status"] == "failed"
    assert reason in run["error"]
    assert processes_of(run["idempotency_key"]) == []


def test_a_setting_that_the_agent_does_not_offer_is_tried_once(daemon: DaemonProcess) -> None:
    run = finished(daemon, "unfit/go")
    assert run["error"] == "mode = 'yolo': the agent does not offer it; it offers read-only, auto"
    assert (run["failure_kind"], run["session"]) == ("config", "s-1")
    assert len(daemon.query("SELECT id FROM runs WHERE agent = 'unfit'")) == 1


def test_processes_that_an_agent_leaves_behind_are_terminated(daemon: DaemonProcess) -> None:
    assert finished(daemon, "parent/echo")["status"] == "completed"
    assert (daemon.folder / "there").exists()
    assert (daemon.folder / "ended").exists()


def test_the_agents_own_result_counts_more_than_the_reason_it_stopped_for(daemon: DaemonProcess) -> None:
    run = finished(daemon, "judge/usage")
    assert (run["status"], run["error"], run["input_tokens"]) == ("failed", "my own word", 5)


def test_lines_that_are_no_messages_are_shown(daemon: DaemonProcess) -> None:
    run = finished(daemon, "noisy/echo")
    assert daemon.output(run["id"]).splitlines() == ["[agent] starting up", "quiet"]
    assert run["status"] == "completed"


def test_a_cancelled_session_ends_its_turn_and_leaves_nothing(daemon: DaemonProcess) -> None:
    number = triggered(daemon, "a/long")
    in_turn(daemon, number)
    cancel(daemon, number)
    run = ended(daemon, number)
    assert (run["status"], run["error"]) == ("cancelled", "cancelled by root")
    assert "did not end its turn" not in daemon.output(number)  # session/cancel was enough
    assert processes_of(run["idempotency_key"]) == []


def test_an_agent_that_ignores_the_cancel_ends_with_its_tree(daemon: DaemonProcess) -> None:
    number = triggered(daemon, "a/stubborn")
    in_turn(daemon, number)
    cancel(daemon, number)
    run = ended(daemon, number)
    assert run["status"] == "cancelled"
    assert "did not end its turn after session/cancel" in daemon.output(number)
    assert processes_of(run["idempotency_key"]) == []


def test_a_session_survives_the_daemon(tmp_path: Path) -> None:
    with daemons_in(tmp_path) as start:
        first = start(text())
        number = triggered(first, "a/long")
        in_turn(first, number)
        first.kill()
        second = start(text())
        assert second.query("SELECT status FROM runs WHERE id = ?", number)[0]["status"] == "running"
        cancel(second, number)
        assert ended(second, number)["status"] == "cancelled"
        third = triggered(second, "a/long")
        in_turn(second, third)
        assert second.stop(signal.SIGTERM) == 0  # detach: it goes on
        assert len(processes_of(second.query("SELECT * FROM runs WHERE id = ?", third)[0]["idempotency_key"])) >= 2
