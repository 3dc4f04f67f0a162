"""Connections to the database that run functions in threads of their own."""

import sqlite3
from collections.abc import Callable
from typing import TypeVar

import aiosqlite

T = TypeVar("T")


class ThreadedConnection(aiosqlite.Connection):
    """The one place that reaches into aiosqlite."""

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in the connection's thread; raise what it raises."""
        result: T = await self._execute(function, self._conn)  # type: ignore[no-untyped-call]
        return result


class Aside:
    """A separate connection for long work."""

    def __init__(self, connection: ThreadedConnection, noted: Callable[[sqlite3.Error], Exception]) -> None:
        """Use a connection; `noted` returns what to raise for an error of SQLite."""
        self._connection = connection
        self._noted = noted

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query in the connection's thread; raise StoreUnavailableError if it cannot be answered now."""
        try:
            return await self._connection.run(query)
        except sqlite3.Error as error:
            raise self._noted(error) from None

    async def checkpoint(self) -> None:
        """Copy the write-ahead log into the database as far as readers allow, without blocking the writer."""
        await self.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())
