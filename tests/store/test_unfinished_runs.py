"""The runs that have not ended, as the database tells them."""

from daemon.model import RunStatus
from daemon.store.unfinished_runs import running_processes
from tests.support.ledger import SECOND, START, Ledger


async def test_a_process_of_an_earlier_boot_is_none_of_this_one(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await ledger.move(1, RunStatus.RUNNING)
    await ledger.database.write(lambda tx: tx.execute("UPDATE runs SET boot_id = 'one', pid = 7, pid_started = 9"))
    assert await ledger.database.read(lambda c: running_processes(c, "one")) == [(1, 7, 9)]
    assert await ledger.database.read(lambda c: running_processes(c, "another")) == []
