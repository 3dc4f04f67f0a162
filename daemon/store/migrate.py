"""Run numbered migrations, each in one transaction, after a backup; refuse a newer database unchanged."""

import re
import sqlite3
from importlib import resources
from pathlib import Path

from daemon.errors import NewerSchemaError, StoreError
from daemon.store.connection import code_of

_NUMBERED = re.compile(r"([0-9]{4})_[a-z0-9_]+\.sql")


def migrations() -> dict[int, str]:
    """Return the SQL of every migration by its number."""
    folder = resources.files("daemon.store") / "migrations"
    found = {match[1]: entry for entry in folder.iterdir() if (match := _NUMBERED.fullmatch(entry.name))}
    return {int(number): entry.read_text() for number, entry in sorted(found.items())}


def migrate(
    connection: sqlite3.Connection, path: Path, steps: dict[int, str], *, keep_before: bool = True
) -> list[int]:
    """Migrate the database to the newest schema; return the numbers of the migrations that ran.

    A copy from before is kept beside it. Raise StoreError if a migration fails, or for a database of a newer version,
    sqlite3.OperationalError if the disk is full.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = max(steps)
    if version > newest:
        raise newer_schema(path, version)
    waiting = [number for number in sorted(steps) if number > version]
    if waiting and version > 0 and keep_before:
        _back_up(connection, path.with_name(f"{path.name}.before-{waiting[0]:04d}"))
    connection.execute("PRAGMA foreign_keys = OFF")  # rebuilding a table must not delete the rows that refer to it
    for number in waiting:
        _run(connection, number, steps[number])
    connection.execute("PRAGMA foreign_keys = ON")
    return waiting


def newer_schema(path: Path, version: int) -> NewerSchemaError:
    """Return the error for a database that a newer version of agentcron wrote."""
    return NewerSchemaError(
        f"{path} has schema {version}, this agentcron knows up to {max(migrations())}: it was written by a newer "
        "version; nothing was changed. Install that version again, or restore the backup made before the upgrade"
    )


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    target.unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (str(target),))
    target.chmod(0o600)


def _run(connection: sqlite3.Connection, number: int, sql: str) -> None:
    before = _orphans(connection)
    try:
        connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version = {number};")
        if _orphans(connection) - before:
            raise sqlite3.IntegrityError("it would leave rows that refer to missing rows")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if code_of(error) == sqlite3.SQLITE_FULL:
            raise
        raise StoreError(f"migration {number:04d} failed and was undone: {error}") from error


def _orphans(connection: sqlite3.Connection) -> set[tuple[object, ...]]:
    """Return the rows that refer to missing rows; a migration fails only if it adds some."""
    return {tuple(row) for row in connection.execute("PRAGMA foreign_key_check")}
