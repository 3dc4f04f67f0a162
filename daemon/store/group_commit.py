"""Commits closures of many callers in one transaction, in which the error of one harms no other."""

import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from daemon.store.changes import Changes
from daemon.store.connection import Transaction, blameless, translated

T = TypeVar("T")
Closure = Callable[[Transaction], T]
"""Statements of one caller. It has no effect outside the database, must not block, and may run more than once."""


def commit_together(connection: sqlite3.Connection, closures: list[Closure[Any]], changes: Changes) -> list[object]:
    """Run closures in one transaction, and add what they changed.

    If one fails, all run again, each under a savepoint; savepoints cost as much as the statements, so they are not used
    at first. If the transaction then fails as a whole, the closures run one by one.
    """
    for way in (_bare, _guarded):
        tx = Transaction(connection)
        try:
            roll_back(connection)  # what an earlier transaction could not
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:  # nobody can write now: waiting again for each closure would only add up
            return [blameless(error)] * len(closures)
        try:
            results = [way(tx, closure) for closure in closures]
            connection.execute("UPDATE instance SET commits = commits + 1")
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - passed to the waiting caller
            with contextlib.suppress(sqlite3.Error):  # the next transaction begins with it
                roll_back(connection)
            if len(closures) == 1:
                return [translated(error)]
        else:
            changes.add(tx.changes)
            return results
    return [commit_together(connection, [closure], changes)[0] for closure in closures]


def _bare(tx: Transaction, closure: Closure[Any]) -> object:
    return closure(tx)


def _guarded(tx: Transaction, closure: Closure[Any]) -> object:
    """Run one closure under a savepoint; return its result or the exception that it raised.

    Raise errors of the database itself: SQLite may have rolled back the whole transaction.
    """
    try:
        with tx.savepoint():
            result: object = closure(tx)
    except sqlite3.IntegrityError as error:
        return error
    except sqlite3.Error:
        raise
    except Exception as error:  # noqa: BLE001 - passed to the waiting caller
        return error
    return result


def roll_back(connection: sqlite3.Connection) -> None:
    """End a transaction that is open, without its changes; raise sqlite3.Error."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
