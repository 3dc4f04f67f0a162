"""The daemon's database access: one writer that commits in groups, and separate connections for readers.

The writer drains a queue of small synchronous closures into one transaction, which runs as one call in aiosqlite's
thread, so that all waiting callers share one fsync of `synchronous=FULL`. A closure has no effect outside the database
and may run more than once.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import structlog

from daemon.errors import DiskFullError, NoRoomError, StoreDamagedError, StoreUnavailableError
from daemon.store.ballast import Ballast
from daemon.store.changes import Changes
from daemon.store.connection import blameless, connect, translated
from daemon.store.group_commit import Closure, commit_together, roll_back
from daemon.store.outage import Outage
from daemon.store.threaded_connection import Aside, ThreadedConnection
from daemon.store.witness import WitnessFile, witness_of

T = TypeVar("T")
_LOG = structlog.get_logger()
_LAST_WRITES = 0.5  # seconds that pending writes get at the end
_LARGEST_BATCH = 100
_CHECKPOINT = 1000  # pages in the write-ahead log after which a commit checkpoints it
_LATE_CHECKPOINT = 3000  # while another connection checkpoints
_RETRY_DELAYS = (0.1, 0.5, 1.0, 2.0, 5.0)
_CATCHING_UP = 2.0  # seconds


class Database:
    """The open database of a running daemon; every write goes through `write`."""

    def __init__(self, path: Path, witness: WitnessFile, ballast: Ballast, *, lost: bool = False) -> None:
        self.path = path
        self.lost = lost
        """Whether data loss was accepted at the start: what happened up to then is unknown."""
        self._witness = witness
        self._ballast = ballast
        self._has_room = True
        self._uses_keys = True
        self.damaged = asyncio.Event()
        """Set once SQLite reports a damaged page."""
        self.outage = Outage()
        self._retrying = 0
        self._retry_now = asyncio.Event()
        self._none_retrying = asyncio.Event()
        self.commits = 0
        self._listeners: list[Callable[[Changes], None]] = []
        self._queue: asyncio.Queue[tuple[Closure[Any], asyncio.Future[Any]]] = asyncio.Queue()
        self._writer = ThreadedConnection(lambda: connect(path), iter_chunk_size=64)
        self._reader = ThreadedConnection(lambda: connect(path, read_only=True), iter_chunk_size=64)

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
        with contextlib.suppress(TimeoutError):  # a write that cannot succeed must not block the shutdown
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
        """Run a closure in a transaction and return its result once that is on disk.

        Raise what the closure raised, or StoreUnavailableError. If the caller is cancelled, the write may still happen.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((closure, future))
        return await future

    async def write_patiently(self, closure: Closure[T]) -> T:
        """Write as `write` does; while the database cannot be written, log that and retry without end."""
        return await self._patiently(lambda: self.write(closure), "written")

    async def write_if_possible(self, closure: Closure[T]) -> T | None:
        """Write as `write` does; return None if the database cannot be written now, as on a full disk."""
        try:
            return await self.write(closure)
        except StoreUnavailableError:
            return None

    async def read_patiently(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Read as `read` does; while the database cannot be read, log that and retry without end."""
        return await self._patiently(lambda: self.read(query), "read")

    async def _patiently(self, action: Callable[[], Awaitable[T]], verb: str) -> T:
        is_retrying = False
        try:
            for delay in chain(_RETRY_DELAYS, repeat(_RETRY_DELAYS[-1])):
                try:
                    return await action()
                except StoreUnavailableError as error:
                    self.outage.log(f"[daemon] The database cannot be {verb}; retrying", error)
                self._retrying += not is_retrying
                is_retrying = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._retry_now.wait()
            raise AssertionError  # the delays do not end
        finally:
            self._retrying -= is_retrying
            if not self._retrying:
                self._none_retrying.set()

    async def catch_up(self) -> None:
        """Let those who retry, because the database could not be used, try now, and wait a moment for them.

        Whoever decides anew calls this first, for what has happened meanwhile, such as the ends of runs, to be seen.
        """
        if self._retrying:
            self._none_retrying.clear()
            self._retry_now.set()
            self._retry_now = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CATCHING_UP):
                    await self._none_retrying.wait()

    async def write_without_keys(self, closure: Closure[T]) -> T:
        """Write as `write` does, in a separate transaction without foreign keys.

        This is for deleting many rows together with everything that refers to them; letting SQLite check the references
        would cost much more.
        """
        result = await self._writer.run(partial(self._commit_without_keys, closure))
        self._note_damage(result)
        if isinstance(result, Exception):
            raise result
        return cast("T", result)

    def _commit_without_keys(self, closure: Closure[Any], connection: sqlite3.Connection) -> object:
        return self._commit_and_witness([closure], Changes(), connection, keys=False)[0]

    async def give_back(self, pages: int) -> int:
        """Return free pages to the file system, at most `pages`, and return how many free pages are left.

        Raise StoreUnavailableError if the database cannot be written.
        """

        def shrink(connection: sqlite3.Connection) -> int:
            connection.executescript(f"PRAGMA incremental_vacuum({pages})")  # `execute` would free a single page
            return int(connection.execute("PRAGMA freelist_count").fetchone()[0])

        try:
            return await self._writer.run(shrink)
        except sqlite3.Error as error:
            raise self._noted(error) from None

    @contextlib.asynccontextmanager
    async def aside(self) -> AsyncIterator[Aside]:
        """Yield a separate connection for long work, so that neither readers nor the writer wait for it.

        Meanwhile this connection's `checkpoint`, not a commit, copies the write-ahead log into the database.
        """
        connection = ThreadedConnection(lambda: connect(self.path), iter_chunk_size=64)
        try:
            await connection
        except sqlite3.Error as error:
            raise self._noted(error) from None
        try:
            await self._checkpoint_after(_LATE_CHECKPOINT)
            try:
                yield Aside(connection, self._noted)
            finally:
                await self._checkpoint_after(_CHECKPOINT)
        finally:
            await connection.close()

    async def _checkpoint_after(self, pages: int) -> None:
        await self._writer.run(lambda writer: writer.execute(f"PRAGMA wal_autocheckpoint = {pages}"))

    async def check_room(self) -> None:
        """Raise NoRoomError while the disk has too little space to start anything new; log when that changes.

        Raise StoreUnavailableError while the state directory cannot be used at all.
        """
        try:
            room = await self._writer.run(lambda _: self._ballast.has_room())
        except OSError as error:
            raise StoreUnavailableError(f"the state directory cannot be used: {error.strerror}") from None
        if room != self._has_room:
            self._has_room = room
            if room:
                _LOG.warning("[daemon] The disk has enough space again", folder=str(self.path.parent))
            else:
                _LOG.error("[daemon] The disk has too little space; nothing is started", folder=str(self.path.parent))
        if not room:
            raise NoRoomError(f"the disk that holds {self.path.parent} has too little space")

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a read-only query in the reader's thread; raise StoreUnavailableError if it cannot be answered now."""
        try:
            return await self._reader.run(query)
        except sqlite3.Error as error:
            raise self._noted(error) from None

    def _noted(self, error: sqlite3.Error) -> Exception:
        """Return the error to raise for one of SQLite; if it reports damage, that ends the daemon, whoever gets it."""
        raised = translated(error)
        self._note_damage(raised)
        return raised

    def _note_damage(self, result: object) -> None:
        if isinstance(result, StoreDamagedError):
            self.damaged.set()

    async def _drain(self) -> None:
        while True:
            try:
                first = await self._queue.get()
            except Exception:  # noqa: BLE001 - whatever happens, the next writers are served
                _LOG.exception("[daemon] The database writer failed; it continues")
                continue
            batch = [first]
            while not self._queue.empty() and len(batch) < _LARGEST_BATCH:
                batch.append(self._queue.get_nowait())
            changes = Changes()
            results = await self._results([closure for closure, _ in batch], changes)
            self.commits += 1
            if not all(isinstance(result, StoreUnavailableError) for result in results):
                self.outage.over()
            for (_, future), result in zip(batch, results, strict=True):
                self._note_damage(result)
                _settle(future, result)
                self._queue.task_done()
            self._publish(changes)

    async def _results(self, closures: list[Closure[Any]], changes: Changes) -> list[object]:
        """Commit closures and return their results.

        After an error that is none of theirs, ask the thread once more: it may have committed them nevertheless, and
        then the callers must get their results.
        """
        done: list[object] = []

        def commit(connection: sqlite3.Connection) -> None:
            done.extend(self._commit_and_witness(closures, changes, connection))

        try:
            await self._writer.run(commit)
        except Exception as error:  # noqa: BLE001 - the waiting callers get it, and the writer continues
            _LOG.exception("[daemon] The database writer failed; it continues")
            with contextlib.suppress(Exception):
                await self._writer.run(lambda _: None)
            return done or [blameless(error)] * len(closures)
        return done

    def _publish(self, changes: Changes) -> None:
        for committed in self._listeners:
            try:
                committed(changes)
            except Exception:  # noqa: BLE001 - what was committed stands, and the next writers are served
                _LOG.exception("[daemon] Unexpected error after a commit")

    def _commit_and_witness(
        self, closures: list[Closure[Any]], changes: Changes, connection: sqlite3.Connection, *, keys: bool = True
    ) -> list[object]:
        if not self._is_there():
            gone = "state.db was removed or replaced while in use; move it back, or stop the daemon and restore it"
            return [StoreUnavailableError(gone)] * len(closures)
        try:
            self._use_keys(connection, keys=keys)
        except sqlite3.Error as error:
            return [blameless(error)] * len(closures)
        results = commit_together(connection, closures, changes)
        if any(isinstance(result, DiskFullError) for result in results) and self._ballast.release():
            _LOG.error("[daemon] The disk is full; deleted the ballast file so that ended runs can be recorded")
        try:
            now = witness_of(connection)
            if now is not None:
                self._witness.record(now)
        except (OSError, sqlite3.Error) as error:  # the commit stands; the next one writes the witness again
            _LOG.error("[daemon] The witness file cannot be written", error=str(error))
        return results

    def _use_keys(self, connection: sqlite3.Connection, *, keys: bool) -> None:
        """Have SQLite check foreign keys or not, which it changes only between transactions."""
        if self._uses_keys is not keys:
            roll_back(connection)  # what an earlier transaction could not
            connection.execute(f"PRAGMA foreign_keys = {'ON' if keys else 'OFF'}")
            self._uses_keys = keys

    def _is_there(self) -> bool:
        """Return whether the open file still has its name; writes to a removed file would be lost."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity


def _settle(future: "asyncio.Future[Any]", result: object) -> None:
    if future.done():
        return
    if isinstance(result, StopIteration):  # which a future refuses
        future.set_exception(RuntimeError(f"a transaction raised {result!r}"))
    elif isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
