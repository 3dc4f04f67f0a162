"""Calls in flight when the daemon stops or dies: drained, interrupted or delivered again, but not if acknowledged."""

import signal
import time
from pathlib import Path

import pytest

from tests.support.configs import config_text, triggered_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.database import change_database
from tests.support.peers.processes import Peer, peer
from tests.support.runs import cancel, ended, triggered
from tests.support.waiting import wait_until


def text(found: Peer, mode: str, stop_timeout: str = "20s", **keys: object) -> str:
    agent = triggered_agent({"x": "go"}, type="agentex", acp_type="sync", url=f"{found.url}/{mode}", **keys)
    return config_text(daemon={"stop_timeout": stop_timeout}, agents={"a": agent})


def in_flight(daemon: DaemonProcess, found: Peer) -> int:
    """Start a run; return it once the peer has its input."""
    number = triggered(daemon, "a/x")
    wait_until(found.requests, what="the delivery")
    return number


@pytest.mark.parametrize(
    ("number", "mode", "end"), [(signal.SIGTERM, "slow", "completed"), (signal.SIGINT, "hang", "cancelled")]
)
def test_a_call_in_flight_is_drained_or_cancelled(
    start_daemon: StartDaemon, tmp_path: Path, number: int, mode: str, end: str
) -> None:
    with peer(tmp_path, "misbehaving") as found:
        daemon = start_daemon(text(found, mode))
        run = in_flight(daemon, found)
        assert daemon.stop(number) == 0
        assert daemon.query("SELECT status FROM runs WHERE id = ?", run)[0]["status"] == end


def test_a_call_that_takes_too_long_is_interrupted(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        daemon = start_daemon(text(found, "stall", "1s"))
        number = in_flight(daemon, found)
        wait_until(lambda: daemon.query("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL"), what="the marker")
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 1 + 5
        [run] = daemon.query("SELECT * FROM runs WHERE id = ?", number)
        assert run["status"] == "interrupted"
        assert run["error"] == "the daemon was stopped while the agent was answering"
        assert daemon.output(number) == "begun"


def test_a_call_that_was_retried_and_then_acknowledged_is_not_made_again(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    with peer(tmp_path, "misbehaving") as found:
        first = start_daemon(text(found, "unavailable-then-stall", "1s"))
        number = in_flight(first, found)
        first.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
        assert first.stop() == 0
        assert first.query("SELECT status FROM runs WHERE id = ?", number)[0]["status"] == "interrupted"
        assert_one_key(found, 2)


def test_input_that_waits_for_its_next_try_is_left_to_the_next_daemon(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    with peer(tmp_path, "misbehaving") as found:
        first = start_daemon(text(found, "unavailable-for-a-second", "2s"), slowed=LONG_WAIT)
        number = in_flight(first, found)
        first.wait_for_log("[delivery] Delivery attempt failed")
        assert first.stop() == 0
        [run] = first.query("SELECT status, started_at FROM runs WHERE id = ?", number)
        assert tuple(run) == ("pending", None)  # the peer refused the input
        second = start_daemon(text(found, "unavailable-for-a-second"))
        assert ended(second, number)["status"] == "completed"
        assert_one_key(found, 2)


def test_a_stop_does_not_wait_for_the_next_try(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        first = start_daemon(text(found, "drop", "1h"), slowed=LONG_WAIT)
        number = in_flight(first, found)
        first.wait_for_log("[delivery] Delivery attempt failed")
        assert first.stop() == 0
        [run] = first.query("SELECT * FROM runs WHERE id = ?", number)
        assert (run["status"], len(found.requests())) == ("pending", 1)
        assert run["started_at"] is not None  # the peer may have the input
        assert first.query("SELECT 1 FROM events WHERE run_id = ? AND type = 'delivery_unconfirmed'", number)


def test_no_try_follows_one_that_fails_during_a_stop(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        first = start_daemon(text(found, "slow-drop", "1h"))
        number = in_flight(first, found)
        assert first.stop() == 0
        [run] = first.query("SELECT * FROM runs WHERE id = ?", number)
        assert (run["status"], len(found.requests())) == ("pending", 1)
        assert "Delivery attempt failed" in first.log_text()


def test_the_next_call_of_a_pair_does_not_begin_during_a_stop(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        pair = {"type": "agentex", "acp_type": "agentic"}
        agent = triggered_agent({"x": "go"}, url=f"{found.url}/slow", **pair)
        first = start_daemon(config_text(agents={"a": agent}))
        number = in_flight(first, found)
        assert first.stop() == 0
        assert first.query("SELECT status FROM runs WHERE id = ?", number)[0]["status"] == "pending"
        assert [one["body"]["method"] for one in found.requests()] == ["task/create"]
        agent = triggered_agent({"x": "go"}, url=f"{found.url}/well", **pair)
        assert ended(start_daemon(config_text(agents={"a": agent})), number)["status"] == "completed"


def test_a_first_call_that_is_cut_off_by_a_stop_is_made_again(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        agent = triggered_agent({"x": "go"}, type="agentex", acp_type="agentic", url=f"{found.url}/hang")
        first = start_daemon(config_text(daemon={"stop_timeout": "1s"}, agents={"a": agent}))
        number = in_flight(first, found)
        assert first.stop() == 0
        assert first.query("SELECT status FROM runs WHERE id = ?", number)[0]["status"] == "pending"


NO_WAIT = """
from daemon.agents.remote import delivery
delivery.WAITS = (0.01,) * 4
"""


def test_failed_tries_are_counted_across_restarts(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        first = start_daemon(text(found, "drop"))
        number = in_flight(first, found)
        first.wait_for_row("SELECT 1 FROM events WHERE type = 'delivery_failed'")
        first.kill()
        made = len(found.requests())
        run = ended(start_daemon(text(found, "drop"), slowed=NO_WAIT), number)
        assert run["status"] == "failed"
        assert "(after 5 attempts)" in str(run["error"])
        assert (made, len(found.requests())) == (1, 5)


LONG_WAIT = """
from daemon import http_client
from daemon.agents.remote import delivery
delivery.WAITS = (60.0,) * 4
http_client._retry_after = lambda text: None if text is None else http_client.timedelta(seconds=60)
"""


def test_unacknowledged_input_is_delivered_again_after_a_crash(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        first = start_daemon(text(found, "hang-once"))
        number = in_flight(first, found)
        first.kill()
        second = start_daemon(text(found, "hang-once"))
        assert ended(second, number)["status"] == "completed"
        assert_one_key(found, 2)


def test_acknowledged_input_is_not_delivered_again_after_a_crash(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        first = start_daemon(text(found, "stall"))
        number = in_flight(first, found)
        wait_until(lambda: first.query("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL"), what="the marker")
        first.kill()
        run = ended(start_daemon(text(found, "stall")), number)
        assert run["status"] == "interrupted"
        assert "is not delivered again" in run["error"]
        assert_one_key(found, 1)


def test_an_interrupted_call_is_rerun_where_the_config_says_so(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        first = start_daemon(text(found, "stall", on_interrupt="rerun"))
        number = in_flight(first, found)
        wait_until(lambda: first.query("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL"), what="the marker")
        first.kill()
        second = start_daemon(text(found, "well", on_interrupt="rerun"))
        assert ended(second, number)["status"] == "continued_as_new"
        assert ended(second, number + 1)["status"] == "completed"
        assert len({one["headers"]["x-idempotency-key"] for one in found.requests()}) == 2


def test_a_cancel_while_no_daemon_ran_is_applied(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "agentex_plain", "async") as found:
        agent = triggered_agent({"x": "wait"}, type="agentex", url=found.url, await_completion=True)
        first = start_daemon(config_text(agents={"a": agent}))
        number = triggered(first, "a/x")
        first.wait_for_run("suspended", number=number)
        first.kill()
        flag = "INSERT INTO cancellation_flags VALUES (?, '2026-01-01T00:00:00.000Z', 'alice', 0, NULL)"
        change_database(first, flag, number)
        run = ended(start_daemon(config_text(agents={"a": agent})), number)
        assert (run["status"], run["error"]) == ("cancelled", "cancelled by alice")
        assert [one["method"] for one in found.requests()] == ["task/create", "event/send", "task/cancel"]


def test_a_suspended_run_whose_agent_left_the_config_continues(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "a2a_sdk") as found:
        first = start_daemon(config_text(agents={"a": triggered_agent({"x": "slow made"}, type="a2a", url=found.url)}))
        number = triggered(first, "a/x")
        first.wait_for_run("suspended", number=number)
        first.kill()
        second = start_daemon("[agents.b]\ncommand = ['true']\n")
        assert ended(second, number)["message"] == "made"


def assert_one_key(found: Peer, deliveries: int) -> None:
    requests = [one for one in found.requests() if one["body"]["method"] == "message/send"]
    assert len(requests) == deliveries
    assert len({one["headers"]["x-idempotency-key"] for one in requests}) == 1
    assert len({str(one["body"]) for one in requests}) == 1


LONG_WAY = """
import time
import daemon.runs.pipeline as pipeline
prepare = pipeline.make_input_folder
def slow(*arguments):
    time.sleep(2)
    return prepare(*arguments)
pipeline.make_input_folder = slow
"""


def test_a_run_cancelled_before_its_delivery_is_never_delivered(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        daemon = start_daemon(text(found, "well"), slowed=LONG_WAY)
        number = triggered(daemon, "a/x")
        daemon.wait_for_run("running", number=number)
        cancel(daemon, number)
        assert ended(daemon, number)["status"] == "cancelled"
        assert found.requests() == []


def test_a_run_before_its_delivery_is_left_to_the_next_daemon(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with peer(tmp_path, "misbehaving") as found:
        first = start_daemon(text(found, "well"), slowed=LONG_WAY)
        number = triggered(first, "a/x")
        first.wait_for_run("running", number=number)
        assert first.stop() == 0
        assert first.query("SELECT status FROM runs WHERE id = ?", number)[0]["status"] == "pending"
        assert found.requests() == []
        assert ended(start_daemon(text(found, "well")), number)["status"] == "completed"
