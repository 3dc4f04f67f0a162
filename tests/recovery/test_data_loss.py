"""What a database that lost data, or an old copy of one, says of the runs that waited in it."""

from functools import partial

import pytest

from daemon.agents.base import Outcome, RunSettings
from daemon.model import FailureKind, RunStatus
from daemon.recovery.data_loss import start_after_loss, start_from_copy
from daemon.runs.finish import finish
from daemon.runs.settings import settings_of, stored
from daemon.store.runs import get_run
from daemon.store.unfinished_runs import forbid_further_attempts
from tests.support.ledger import SECOND, START, Ledger
from tests.support.parts import NO_NOTIFICATIONS

AT = START + 20 * SECOND
WAYS = {
    "lost": partial(start_after_loss, now=AT, begun={2}, outbox=NO_NOTIFICATIONS),
    "copied": partial(start_from_copy, now=AT, was_released=lambda _: False, outbox=NO_NOTIFICATIONS),
}


@pytest.mark.parametrize("way", WAYS)
async def test_an_interrupted_buffered_run_leaves_no_buffered_due_time(ledger: Ledger, way: str) -> None:
    await ledger.declare('overlap = "buffer_all"')
    await ledger.decide(START + 10 * SECOND)
    await ledger.move(1, RunStatus.RUNNING)
    await ledger.decide(AT)
    assert (await ledger.rows())[1]["outcome"] == "buffered"
    await ledger.database.write(WAYS[way])
    fire = (await ledger.rows())[1]
    assert (fire["outcome"], fire["run_id"]) == ("skipped_missed", 2)
    assert "unknown whether it ran" in fire["reason"]
    [run] = await ledger.select("SELECT status FROM runs WHERE id = 2")
    assert run == {"status": "interrupted"}


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(RunStatus.FAILED, "limit reached", kind=FailureKind.QUOTA),
        Outcome(RunStatus.FAILED, "no such session", session_refused="no such session"),
        Outcome(RunStatus.INTERRUPTED, "its supervisor was killed"),
    ],
)
async def test_a_run_whose_next_attempt_may_be_lost_gets_none(ledger: Ledger, outcome: Outcome) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await ledger.move(1, RunStatus.RUNNING)
    settings = RunSettings(attempts=3, on_interrupt="rerun", limit_pools=("agent:a",))
    given = "UPDATE runs SET settings = ?, resumed_session = 's-1'"
    await ledger.database.write(lambda tx: tx.execute(given, (stored(settings),)).fetchall())
    await ledger.database.write(forbid_further_attempts)
    run = await ledger.database.read(lambda connection: get_run(connection, 1))
    assert run is not None
    finishing = partial(finish, instance="x", chance=0, outbox=NO_NOTIFICATIONS)
    await ledger.database.write(lambda tx: finishing(tx, 1, outcome, settings_of(run), AT))
    assert await ledger.select("SELECT id, status FROM runs") == [{"id": 1, "status": outcome.status}]
