"""SQLite as agentcron uses it: one group-committing writer, and connections of their own for readers.

The writer drains a queue of small synchronous closures into one transaction that runs as one hop in aiosqlite's
thread, so that the fsync of `synchronous=FULL` is shared by all who wait. A closure has no effect outside the
database and may run more than once.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import aiosqlite
import structlog

from daemon.errors import DiskFullError, NoRoomError, StoreDamagedError, StoreUnavailableError
from daemon.store.ballast import Ballast
from daemon.store.changes import Changes
from daemon.store.connection import Transaction, connect, told
from daemon.store.witness import WitnessFile, testify

T = TypeVar("T")
Closure = Callable[[Transaction], T]
_LOG = structlog.get_logger()
_LAST_WRITES = 0.5  # seconds
_LARGEST_BATCH = 100
_CHECKPOINT = 1000  # pages of the write-ahead log after which a commit brings them into the database
_LATE_CHECKPOINT = 3000  # while somebody else does that
_RETRY_DELAYS = (0.1, 0.5, 1.0, 2.0, 5.0)


class _Connection(aiosqlite.Connection):
    """The one place that reaches into aiosqlite: run a function of ours in the connection's thread."""

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        result: T = await self._execute(function, self._conn)  # type: ignore[no-untyped-call]
        return result


class Database:
    """The open database of a running daemon; every write goes through `write`."""

    def __init__(self, path: Path, witness: WitnessFile, ballast: Ballast, *, lost: bool = False) -> None:
        self.path = path
        self.lost = lost
        """Whether it was accepted although it knows less than its witness: what happened up to now is unknown."""
        self._witness = witness
        self._ballast = ballast
        self._has_room = True
        self.damaged = asyncio.Event()
        """Whether a page was found that is not what was written."""
        self.commits = 0
        self._listeners: list[Callable[[Changes], None]] = []
        self._queue: asyncio.Queue[tuple[Closure[Any], asyncio.Future[Any]]] = asyncio.Queue()
        self._writer = _Connection(lambda: connect(path), iter_chunk_size=64)
        self._reader = _Connection(lambda: connect(path, read_only=True), iter_chunk_size=64)

    async def __aenter__(self) -> Self:
        await self._writer
        found = self.path.stat()
        self._identity = (found.st_dev, found.st_ino)
        try:
            await self._reader
        except BaseException:
            await self._writer.close()
            raise
        self._pump = asyncio.create_task(self._drain(), name="database writer")
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(TimeoutError):  # a write that cannot be made must not hold up the end
            async with asyncio.timeout(_LAST_WRITES):
                await self._queue.join()
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        await self._reader.close()
        await self._writer.close()
        self._witness.close()

    def on_commit(self, committed: Callable[[Changes], None]) -> None:
        """Call a function, which must not block or raise, with what each batch changed after it was committed.

        Whoever waits for a change waits for it here, so that no writer can forget to wake them.
        """
        self._listeners.append(committed)

    async def write(self, closure: Closure[T]) -> T:
        """Return the closure's result once it is on disk; raise what it raised, or StoreUnavailableError.

        If the caller is cancelled the write may still stand.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((closure, future))
        return await future

    async def write_patiently(self, closure: Closure[T]) -> T:
        """Write as `write` does, and while the database cannot take it, say so and try again without end."""
        return await _patiently(lambda: self.write(closure), "written")

    async def read_patiently(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Read as `read` does, and while the database cannot be read, say so and try again without end."""
        return await _patiently(lambda: self.read(query), "read")

    async def write_without_keys(self, closure: Closure[T]) -> T:
        """Write as `write` does, in a transaction of its own that follows no foreign keys.

        It is for those who delete many rows with all that refers to them: having SQLite look for that costs much more.
        """
        result = await self._writer.run(partial(self._commit_without_keys, closure))
        if isinstance(result, Exception):
            raise result
        return cast("T", result)

    def _commit_without_keys(self, closure: Closure[Any], connection: sqlite3.Connection) -> object:
        connection.execute("PRAGMA foreign_keys = OFF")
        try:
            return self._commit_and_witness([closure], Changes(), connection)[0]
        finally:
            connection.execute("PRAGMA foreign_keys = ON")

    async def give_back(self, pages: int) -> int:
        """Give so many free pages at the end of the file back to the file system, moving others there.

        Return how many are left; raise StoreUnavailableError.
        """

        def shrink(connection: sqlite3.Connection) -> int:
            connection.executescript(f"PRAGMA incremental_vacuum({pages})")  # `execute` gives back a single one
            return int(connection.execute("PRAGMA freelist_count").fetchone()[0])

        try:
            return await self._writer.run(shrink)
        except sqlite3.Error as error:
            raise told(error) from None

    @contextlib.asynccontextmanager
    async def aside(self) -> AsyncIterator["Aside"]:
        """Give a connection for long work, for which neither readers nor the writer wait.

        Meanwhile the write-ahead log is brought into the database by this connection's `checkpoint`, not by commits.
        """
        connection = _Connection(lambda: connect(self.path), iter_chunk_size=64)
        try:
            await connection
        except sqlite3.Error as error:
            raise told(error) from None
        try:
            await self._checkpoint_after(_LATE_CHECKPOINT)
            try:
                yield Aside(connection)
            finally:
                await self._checkpoint_after(_CHECKPOINT)
        finally:
            await connection.close()

    async def _checkpoint_after(self, pages: int) -> None:
        await self._writer.run(lambda writer: writer.execute(f"PRAGMA wal_autocheckpoint = {pages}"))

    async def check_room(self) -> None:
        """Raise NoRoomError while the disk has too little room for anything new; tell the log when that changes.

        Raise StoreUnavailableError while the state directory cannot be used at all.
        """
        try:
            room = await self._writer.run(lambda _: self._ballast.has_room())
        except OSError as error:
            raise StoreUnavailableError(f"the state directory cannot be used: {error.strerror}") from None
        if room != self._has_room:
            self._has_room = room
            if room:
                _LOG.warning("[daemon] The disk has room again", folder=str(self.path.parent))
            else:
                _LOG.error("[daemon] The disk has too little room; nothing is started", folder=str(self.path.parent))
        if not room:
            raise NoRoomError(f"the disk that holds {self.path.parent} has too little room")

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a read-only query in the reader's thread; raise StoreUnavailableError while it cannot be answered."""
        try:
            return await self._reader.run(query)
        except sqlite3.Error as error:
            trouble = told(error)
            self._heed(trouble)
            raise trouble from None

    def _heed(self, result: object) -> None:
        if isinstance(result, StoreDamagedError):
            self.damaged.set()

    async def _drain(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty() and len(batch) < _LARGEST_BATCH:
                batch.append(self._queue.get_nowait())
            changes = Changes()
            work = partial(self._commit_and_witness, [closure for closure, _ in batch], changes)
            results: list[object]
            try:
                results = await self._writer.run(work)
            except Exception as error:  # noqa: BLE001 - those who wait must hear of it, and the next ones be served
                results = [error] * len(batch)
            self.commits += 1
            for (_, future), result in zip(batch, results, strict=True):
                self._heed(result)
                _settle(future, result)
                self._queue.task_done()
            for committed in self._listeners:
                committed(changes)

    def _commit_and_witness(
        self, closures: list[Closure[Any]], changes: Changes, connection: sqlite3.Connection
    ) -> list[object]:
        if not self._is_there():
            gone = "state.db was removed or replaced while the daemon uses it; move it back, or stop and restore it"
            return [StoreUnavailableError(gone)] * len(closures)
        results = _commit(connection, closures, changes)
        if any(isinstance(result, DiskFullError) for result in results) and self._ballast.release():
            _LOG.error("[daemon] The disk is full; the ballast file was given up so that what ends can be recorded")
        try:
            now = testify(connection)
            if now is not None:
                self._witness.record(now)
        except (OSError, sqlite3.Error) as error:  # what was committed stands; the next commit tells it again
            _LOG.error("[daemon] The witness file cannot be written", error=str(error))
        return results

    def _is_there(self) -> bool:
        """Tell whether the file that is written has its name still; what is written without one is lost."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity


class Aside:
    """A connection beside the writer and the readers."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query in the connection's thread; raise StoreUnavailableError while it cannot be answered."""
        try:
            return await self._connection.run(query)
        except sqlite3.Error as error:
            raise told(error) from None

    async def checkpoint(self) -> None:
        """Bring what the write-ahead log holds into the database, as far as readers allow, beside the writer."""
        await self.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())


async def _patiently(action: Callable[[], Awaitable[T]], verb: str) -> T:
    attempt = 0
    while True:
        try:
            return await action()
        except StoreUnavailableError as error:
            delay = _RETRY_DELAYS[min(attempt, len(_RETRY_DELAYS) - 1)]
            _LOG.error(f"[daemon] The database cannot be {verb}; trying again", error=str(error), delay_s=delay)
            attempt += 1
            await asyncio.sleep(delay)


def _settle(future: "asyncio.Future[Any]", result: object) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _commit(connection: sqlite3.Connection, closures: list[Closure[Any]], changes: Changes) -> list[object]:
    """Run closures in one transaction, and add what they changed.

    Where one of them fails all are run again under savepoints, which cost as much as the statements; where that makes
    the transaction fail as a whole, they are replayed one by one.
    """
    for way in (_bare, _guarded):
        tx = Transaction(connection)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:  # nobody can write now: waiting again for each would only add up
            return [told(error)] * len(closures)
        try:
            results = [way(tx, closure) for closure in closures]
            connection.execute("UPDATE instance SET commits = commits + 1")
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - handed to the one who waits for it
            _roll_back(connection)
            if len(closures) == 1:
                return [told(error)]
        else:
            changes.add(tx.changes)
            return results
    return [_commit(connection, [closure], changes)[0] for closure in closures]


def _bare(tx: Transaction, closure: Closure[Any]) -> object:
    return closure(tx)


def _guarded(tx: Transaction, closure: Closure[Any]) -> object:
    """Run one closure under a savepoint; give back its result, or the exception it raised.

    Errors of the database itself leave the function: SQLite may have rolled back the whole transaction.
    """
    try:
        with tx.savepoint():
            result: object = closure(tx)
    except sqlite3.IntegrityError as error:
        return error
    except sqlite3.Error:
        raise
    except Exception as error:  # noqa: BLE001 - handed to the one who waits for it
        return error
    return result


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
