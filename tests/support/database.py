"""The database of a daemon, changed behind its back."""

import contextlib
import sqlite3
from pathlib import Path

from tests.support.daemon_process import DaemonProcess


def change_database(daemon: DaemonProcess, sql: str, *values: object) -> None:
    """Run one statement that commits at once."""
    with contextlib.closing(sqlite3.connect(daemon.state / "state.db", timeout=20, isolation_level=None)) as connection:
        connection.execute(sql, values)


def damaged(file: Path, page: int = 4) -> None:
    """Turn the bits of a page over, as a bad disk does."""
    with file.open("r+b") as stream:
        stream.seek((page - 1) * 4096)
        data = stream.read(4096)
        stream.seek((page - 1) * 4096)
        stream.write(bytes(byte ^ 0xFF for byte in data))
