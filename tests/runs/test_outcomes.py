"""What is recorded of a run's outcome, next to its status."""

import json
from functools import partial
from typing import Any

import pytest

from daemon.agents.base import Outcome, RunSettings
from daemon.model import FailureKind, RunStatus
from daemon.runs.finish import finish
from tests.support.configs import one_agent
from tests.support.daemon_process import StartDaemon
from tests.support.ledger import SECOND, START, Ledger
from tests.support.parts import NO_NOTIFICATIONS
from tests.support.runs import ended

COLUMNS = ("failure_kind", "session", "usage_state", "denials")


async def recorded(ledger: Ledger, outcome: Outcome) -> dict[str, Any]:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await ledger.move(1, RunStatus.RUNNING)
    end = partial(finish, instance="instance", chance=0.5, outbox=NO_NOTIFICATIONS)
    await ledger.database.write(lambda tx: end(tx, 1, outcome, RunSettings(), START + 11 * SECOND))
    return (await ledger.select("SELECT * FROM runs"))[0]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome(RunStatus.COMPLETED), (None, None, None, 0)),
        (Outcome(RunStatus.COMPLETED, session="s-1", usage={"input_tokens": 0}), (None, "s-1", "exact", 0)),
        (Outcome(RunStatus.FAILED), ("failed", None, None, 0)),
        (Outcome(RunStatus.FAILED, kind=FailureKind.QUOTA), ("quota", None, None, 0)),
        (
            Outcome(RunStatus.FAILED, usage={"cost_usd": 0.5}, usage_at_least=True, denials=("Bash", "Edit")),
            ("failed", None, "at_least", 2),
        ),
    ],
)
async def test_what_an_agent_told_is_recorded(ledger: Ledger, outcome: Outcome, expected: tuple[object, ...]) -> None:
    run = await recorded(ledger, outcome)
    assert tuple(run[name] for name in COLUMNS) == expected
    events = await ledger.select("SELECT data FROM events WHERE type = 'permission_denied' ORDER BY number")
    assert [json.loads(event["data"])["what"] for event in events] == list(outcome.denials)


async def test_a_session_that_is_not_continued_is_an_event(ledger: Ledger) -> None:
    await recorded(ledger, Outcome(RunStatus.COMPLETED, session="s-2", session_refused="it is gone"))
    [event] = await ledger.select("SELECT data FROM events WHERE type = 'session_refused'")
    assert json.loads(event["data"]) == {"reason": "it is gone"}


def test_temporary_files_that_cannot_be_removed_cost_neither_the_outcome_nor_the_daemon(
    start_daemon: StartDaemon,
) -> None:
    broken = """
import daemon.runs.pipeline as pipeline
def fails(*_): raise RuntimeError("can't start new thread")
pipeline.remove_temporary_files = fails
"""
    daemon = start_daemon(one_agent("exit 0"), slowed=broken)
    assert ended(daemon)["status"] == "completed"
    assert "can't start new thread" in daemon.wait_for_log("[run] Temporary files are not removed")["reason"]
    assert daemon.process.poll() is None
