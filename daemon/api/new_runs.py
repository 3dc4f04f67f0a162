"""Writes the runs that a request creates, within what its principal may cause."""

from collections.abc import Callable
from typing import TypeVar

from daemon.api.allowance import Kind
from daemon.api.routing import ApiCall
from daemon.schedules.management import ChangeRequest
from daemon.store.connection import Transaction
from daemon.store.limits import newest_run, size_of_runs

T = TypeVar("T")


async def write_runs(call: ApiCall, request: ChangeRequest, create: Callable[[Transaction], T]) -> T:
    """Create runs in a transaction; raise LimitError, and create none, if their inputs are too large for one day.

    A repeated request that is answered with its earlier run creates none.
    """
    allowance = call.context.allowance

    def run(tx: Transaction) -> tuple[T, int]:
        before = newest_run(tx)
        created = create(tx)
        size = size_of_runs(tx, before)
        if request.limited and size:
            allowance.check(request.principal, Kind.RUNS, size)
        return created, size

    created, size = await call.context.home.database.write(run)
    if request.limited and size:
        allowance.use(request.principal, size, Kind.RUNS)
    return created
