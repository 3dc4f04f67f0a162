"""Compare a database with what the migrations create, before the first query: an agent may have rebuilt its tables.

A view in the place of a table makes a query endless, and a trigger or an expression in the schema runs with it.
"""

import contextlib
import re
import sqlite3
from pathlib import Path

from daemon.errors import StoreError
from daemon.model import OWN_TABLES
from daemon.store.migrate import migrations, newer_schema

BACKUP_TABLE = "CREATE TABLE backup (made_at TEXT NOT NULL, made_by TEXT NOT NULL, hook_key BLOB) STRICT"
"""The table that a backup has in addition."""
_Entry = tuple[str, str, str | None]  # type, name and SQL, as in sqlite_schema
_ADDED = {
    ("table", "backup", BACKUP_TABLE),
    ("table", "sqlite_stat1", "CREATE TABLE sqlite_stat1(tbl,idx,stat)"),  # of ANALYZE
    ("table", "sqlite_stat4", "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)"),
}
_PLAIN = re.compile(
    r'CREATE (?:TABLE [^()]*\((?:[^()]|\([\w\s,"]*\))*\)[\w\s,]*|(?:UNIQUE )?INDEX [^()]*\([^()]*\)\s*)', re.ASCII
)
"""Tables and indexes without expressions; other programs, such as one that replicates a database, add some."""


def schema_version(connection: sqlite3.Connection, name: Path) -> int:
    """Return the version of a database's schema; raise StoreError if it is too new, or the database is not ours.

    `name` is what errors call the database.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > max(migrations()):
        raise newer_schema(name, version)
    if not OWN_TABLES & {entry for _, entry, _ in _entries(connection)}:
        raise StoreError(f"{name} is not a database of agentcron, or was emptied; run `agentcron doctor` for details")
    return version


def check_schema(connection: sqlite3.Connection, name: Path, *, only_reads: bool = False) -> int:
    """Return the version of a database's schema; raise StoreError if it is too new, or holds anything foreign.

    Foreign are views, triggers, virtual tables and expressions that no migration creates. Triggers do nothing to a
    connection that only reads. `name` is what errors call the database.
    """
    version = schema_version(connection, name)
    found = {entry for entry in _entries(connection) if not (only_reads and entry[0] == "trigger")}
    ours = _created(version)
    foreign = [f"its {entry[0]} {entry[1]} is foreign" for entry in found - ours - _ADDED if not _is_plain(entry, ours)]
    missing = [f"its {kind} {entry} is missing" for kind, entry, _ in ours - found]
    if foreign or missing:
        what = min(foreign or missing)
        raise StoreError(f"{name} has been modified: {what}; restore a backup with `agentcron restore`")
    return version


def _entries(connection: sqlite3.Connection) -> set[_Entry]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_schema")
    return {(str(kind), str(name), None if sql is None else str(sql)) for kind, name, sql in rows}


def _created(version: int) -> set[_Entry]:
    """Return what the migrations up to a version create."""
    with contextlib.closing(sqlite3.connect(":memory:")) as reference:
        for number, sql in migrations().items():
            if number <= version:
                reference.executescript(sql)
        return _entries(reference)


def _is_plain(entry: _Entry, ours: set[_Entry]) -> bool:
    """Return whether something additional holds no expression; indexes that SQLite makes by itself have no SQL."""
    kind, name, sql = entry
    if kind not in {"table", "index"} or name in {name for _, name, _ in ours}:
        return False
    return name.startswith("sqlite_autoindex_") if sql is None else _PLAIN.fullmatch(sql) is not None
