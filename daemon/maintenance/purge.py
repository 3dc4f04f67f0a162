"""Finds expired rows on its own connection, without delaying the writer, and deletes them in short transactions."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import TypeVar

from daemon.errors import DiskFullError
from daemon.rules.retention import Cutoff, RetentionPolicy
from daemon.store.connection import Transaction
from daemon.store.database import Database
from daemon.store.group_commit import Closure
from daemon.store.retention import (
    Expired,
    PageOfFires,
    Source,
    delete_fires,
    delete_remains,
    delete_runs,
    deleted_schedules,
    expirable,
    expired_fires,
    schedules_with_old_fires,
    sort_out,
    spared_from,
)
from daemon.store.threaded_connection import Aside

T = TypeVar("T")
_HOLD = 0.015  # seconds that one transaction should take
_LEAST, _FIRST, _MOST = 20, 200, 2000  # rows examined in one transaction
_PAGES = 100  # pages released in the first transaction that releases some
_MOST_PAGES = 1000
_CHECKPOINT_EVERY = 4  # transactions


class Purge:
    """One sweep over the database."""

    def __init__(self, database: Database, aside: Aside, policy: RetentionPolicy, latest: Cutoff) -> None:
        """Sweep by a policy in which the newest runs of each schedule are still to be looked up.

        `latest` is its latest cutoff, by which the most runs expire.
        """
        self._database = database
        self._aside = aside
        self._policy = policy
        self._latest = latest
        self._rows = _Pace(_LEAST, _FIRST, _MOST)
        self._pages = _Pace(1, _PAGES, _MOST_PAGES)
        self._transactions = 0
        self._deletes_some = True

    async def candidates(self, batch: int | None = None) -> AsyncIterator[list[int]]:
        """Yield the runs that may have expired, lowest first; raise StoreUnavailableError.

        Each list has up to `batch` runs, by default as many as one transaction should examine.
        """
        spared = await self._aside.read(lambda c: spared_from(c, self._policy))
        self._policy = replace(self._policy, spared_from=spared)
        after = 0
        while found := await self._aside.read(
            partial(expirable, after=after, before=self._latest, limit=batch or self._rows.size)
        ):
            yield found
            after = found[-1]

    async def expired(self, numbers: list[int]) -> Expired:
        """Return which of some candidates have expired."""
        return await self._aside.read(partial(sort_out, numbers=numbers, policy=self._policy))

    async def delete_runs(self, numbers: list[int]) -> Expired:
        """Delete the expired ones among some candidates, with all their rows; return which have expired.

        If the previous call deleted nothing, read first, so that no transaction is written in vain.
        """
        if not self._deletes_some:
            found = await self.expired(numbers)
            if not found.gone:
                return found
        found = await self._delete(partial(self._delete_expired, numbers), self._rows)
        self._deletes_some = bool(found.gone)
        return found

    def _delete_expired(self, numbers: list[int], tx: Transaction) -> Expired:
        found = sort_out(tx, numbers, self._policy)
        delete_runs(tx, found.gone)
        return found

    async def schedules_with_old_fires(self) -> list[int]:
        """Return the schedules that may have expired fires."""
        return await self._aside.read(lambda c: schedules_with_old_fires(c, self._policy))

    async def expired_fires(self, schedule_id: int) -> int:
        """Count the expired fires of a schedule."""
        count = 0
        after: str | None = ""
        while after is not None:
            page = await self._aside.read(partial(self._page_of_fires, schedule_id, after, _MOST))
            count, after = count + len(page.due_times), page.then
        return count

    async def delete_fires(self, schedule_id: int) -> int:
        """Delete the expired fires of a schedule; return their number."""
        count = 0
        after: str | None = ""
        if not (await self._aside.read(partial(self._page_of_fires, schedule_id, "", _MOST))).due_times:
            return 0
        while after is not None:
            page = await self._delete(partial(self._delete_page, schedule_id, after), self._rows)
            count, after = count + len(page.due_times), page.then
        return count

    def _page_of_fires(self, schedule_id: int, after: str, limit: int, source: Source) -> PageOfFires:
        return expired_fires(source, schedule_id, after, self._policy, limit)

    def _delete_page(self, schedule_id: int, after: str, tx: Transaction) -> PageOfFires:
        page = self._page_of_fires(schedule_id, after, self._rows.size, tx)
        delete_fires(tx, schedule_id, page)
        return page

    async def delete_schedules(self) -> int:
        """Delete expired rows of deleted schedules, and schedules with nothing left; return the number of schedules."""
        known = await self._aside.read(deleted_schedules)
        count = first = 0
        while batch := known[first : first + self._rows.size]:
            count += await self._delete(partial(self._delete_batch, batch), self._rows)
            first += len(batch)
        return count

    def _delete_batch(self, schedules: list[int], tx: Transaction) -> int:
        return sum(delete_remains(tx, schedule_id, self._policy) for schedule_id in schedules)

    async def give_back(self) -> None:
        """Return the space of deleted rows to the file system."""
        before, left = None, 1
        while left and left != before:  # a database that was rebuilt by hand may not support this
            began, before = time.monotonic(), left
            left = await self._database.give_back(self._pages.size)
            self._pages.took(time.monotonic() - began)
            await self._aside.checkpoint()

    async def _delete(self, closure: Closure[T], pace: "_Pace") -> T:
        """Run a transaction that deletes; if the disk is full, run it again, now that the ballast is released."""
        began = 0.0

        def timed(tx: Transaction) -> T:
            nonlocal began
            began = time.monotonic()
            return closure(tx)

        try:
            result = await self._database.write_without_keys(timed)
        except DiskFullError:
            result = await self._database.write_without_keys(timed)
        pace.took(time.monotonic() - began)
        self._transactions += 1
        if self._transactions % _CHECKPOINT_EVERY == 0:
            await self._aside.checkpoint()
        return result


class _Pace:
    """Adapts the size of batches, so that no transaction takes long."""

    def __init__(self, least: int, first: int, most: int) -> None:
        self.size = first
        self._least = least
        self._most = most

    def took(self, seconds: float) -> None:
        """Adapt the size to the time that a transaction took."""
        if seconds > _HOLD * 2:
            self.size = max(self._least, self.size // 2)
        elif seconds < _HOLD / 2:
            self.size = min(self._most, self.size * 2)
