"""A query of a command ends on Ctrl-C and after its time, even if SQLite would never return."""

import contextlib
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.errors import StoreError
from daemon.store.bounded import bounded
from tests.support.waiting import DEADLINE

ENDLESS = "WITH RECURSIVE r(i) AS (SELECT coalesce(begun(), 1) UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r"


@pytest.fixture
def begun() -> threading.Event:
    """Return what is set once the endless query has begun."""
    return threading.Event()


@pytest.fixture
def connection(begun: threading.Event) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        connection.create_function("begun", 0, begun.set)
        yield connection


def test_ctrl_c_ends_a_query(connection: sqlite3.Connection, begun: threading.Event, tmp_path: Path) -> None:
    caught: list[int] = []
    earlier = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))  # it must not raise in `begun`

    def interrupt() -> None:
        begun.wait(DEADLINE)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=interrupt)
    sender.start()
    try:
        with pytest.raises(sqlite3.OperationalError, match="interrupted"), bounded(connection, tmp_path / "x"):
            connection.execute(ENDLESS)
    finally:
        sender.join()
        signal.signal(signal.SIGINT, earlier)
    assert caught == [signal.SIGINT]
    assert signal.set_wakeup_fd(-1) == -1  # what waits for signals is as before


def test_a_query_has_a_bound(connection: sqlite3.Connection, tmp_path: Path) -> None:
    within = bounded(connection, tmp_path / "copy", tmp_path / "state.db", least=0.1)
    with pytest.raises(StoreError, match=r"state\.db is damaged: reading it takes"), within:
        connection.execute(ENDLESS)
    assert connection.execute("SELECT 1").fetchone() == (1,)  # nothing of it is left
