"""What a database that lost data, or an old copy of one, says of the runs that waited in it."""

from functools import partial

import pytest

from daemon.model import RunStatus
from daemon.recovery.data_loss import start_after_loss, start_from_copy
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
