"""A database whose schema is not what the migrations create is refused before anything in it is queried."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.errors import NewerSchemaError, StoreError
from daemon.store.migrate import migrations
from daemon.store.schema import BACKUP_TABLE, check_schema

PLACE = Path("/state/state.db")
FOREIGN = {
    "view": "CREATE VIEW fresh AS SELECT 1",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END",
    "generated column": "CREATE TABLE more (a, b AS (hex(a)))",
    "check": "CREATE TABLE more (a CHECK (like(a, a)))",
    "index on an expression": "CREATE INDEX more ON runs (hex(error))",
    "partial index": "CREATE INDEX more ON runs (error) WHERE hex(error) > ''",
    "virtual table": "CREATE VIRTUAL TABLE more USING fts4(a)",
    "changed table": "ALTER TABLE runs ADD COLUMN mine TEXT AS (hex(error))",
    "missing index": "DROP INDEX runs_queue",
    "missing table": "DROP TABLE events",
    "older version": "PRAGMA user_version = 1",
    "no version": "PRAGMA user_version = 0",
    "negative version": "PRAGMA user_version = -5",
}
PLAIN = {
    "backup": BACKUP_TABLE,
    "statistics": "ANALYZE",
    "table": "CREATE TABLE _replica (id INTEGER PRIMARY KEY, seq NUMERIC(10, 2), UNIQUE (id, seq))",
    "index": "CREATE INDEX by_error ON runs (error)",
}


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """Return a database that agentcron made."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for sql in migrations().values():
            connection.executescript(sql)
        connection.execute(f"PRAGMA user_version = {max(migrations())}")
        yield connection


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_no_migration_creates_is_refused(connection: sqlite3.Connection, kind: str) -> None:
    connection.execute(FOREIGN[kind])
    with pytest.raises(StoreError, match=r"state\.db has been modified: its .* is (foreign|missing); restore"):
        check_schema(connection, PLACE)


def test_a_trigger_does_nothing_to_who_only_reads(connection: sqlite3.Connection) -> None:
    connection.execute(FOREIGN["trigger"])
    assert check_schema(connection, PLACE, only_reads=True) == max(migrations())


@pytest.mark.parametrize("kind", PLAIN)
def test_what_holds_no_expression_may_be_added(connection: sqlite3.Connection, kind: str) -> None:
    connection.execute(PLAIN[kind])
    assert check_schema(connection, PLACE) == max(migrations())


@pytest.mark.parametrize("version", migrations())
def test_databases_of_earlier_versions_are_known(version: int) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for number, sql in migrations().items():
            if number <= version:
                connection.executescript(sql)
        connection.execute(f"PRAGMA user_version = {version}")
        assert check_schema(connection, PLACE) == version


def test_a_newer_or_another_database_is_refused(connection: sqlite3.Connection) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as other, pytest.raises(StoreError, match="not a database"):
        check_schema(other, PLACE)
    connection.execute("PRAGMA user_version = 9999")
    with pytest.raises(NewerSchemaError):
        check_schema(connection, PLACE)


def test_entries_that_are_no_text_are_foreign(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("INSERT INTO sqlite_schema VALUES (7, x'ff', NULL, 0, x'00')")
    with pytest.raises(StoreError, match="is foreign"):
        check_schema(connection, PLACE)
