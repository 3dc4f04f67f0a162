"""Writes the runs that a request creates, within what its principal may cause."""

from collections.abc import Callable
from typing import TypeVar

from daemon.allowance import Kind
from daemon.api.routing import ApiCall
from daemon.schedules.management import ChangeRequest
from daemon.store.connection import Transaction

T = TypeVar("T")


async def write_runs(call: ApiCall, request: ChangeRequest, create: Callable[[Transaction], T]) -> T:
    """Create runs in a transaction; raise LimitError, and create none, if their inputs are too large for one day.

    A repeated request that is answered with its earlier run creates none.
    """

    def run(tx: Transaction) -> tuple[T, int]:
        created = create(tx)
        check_inputs(call, request, tx)
        return created, tx.changes.run_bytes

    created, size = await call.context.home.database.write(run)
    if request.limited and size:
        call.context.home.allowance.use(request.principal, size, Kind.RUNS)
    return created


def check_inputs(call: ApiCall, request: ChangeRequest, tx: Transaction) -> None:
    """Raise LimitError if the inputs of the runs that a transaction has created are too large for one day.

    `write_runs` does this at the end; whoever creates many runs calls it after each, since they must not all be written
    first.
    """
    size = tx.changes.run_bytes
    if request.limited and size:
        call.context.home.allowance.check(request.principal, Kind.RUNS, size)
