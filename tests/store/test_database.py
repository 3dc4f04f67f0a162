"""The database: group commit, errors, witness, modes and lock."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from daemon.errors import DiskFullError, RefusedError, StoreError, StoreUnavailableError
from daemon.model import DATABASE, RunStatus
from daemon.store.changes import Changes, StatusChange
from daemon.store.connection import Transaction, connect
from daemon.store.database import Database
from daemon.store.lock import DaemonLock, running_daemon
from daemon.store.state_dir import open_state
from daemon.store.witness import Witness, read_witness, write_witness
from tests.support.injection import Plan, TaskFactory

NOW = datetime(2026, 11, 21, tzinfo=UTC)
RUN = (
    "INSERT INTO runs (name, agent, trigger, scheduled_for, status, created_at, updated_at, display_name, creator, "
    "idempotency_key, queue_class) VALUES (?1, 'a', 'manual', 'x', 'pending', 'x', 'x', 'x', 'x', ?1, 0)"
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_state(tmp_path, NOW, accept_data_loss=False) as opened:
        yield opened


async def names(database: Database) -> set[str]:
    return await database.read(lambda c: {row["name"] for row in c.execute("SELECT name FROM runs")})


async def test_waiting_writers_share_commits(database: Database) -> None:
    before = database.commits
    await asyncio.gather(*(database.write(lambda tx, n=n: tx.execute(RUN, (f"r{n}",))) for n in range(1000)))  # type: ignore[misc]
    assert len(await names(database)) == 1000
    assert database.commits - before <= 20


async def test_one_failing_closure_harms_no_other(database: Database) -> None:
    def half(tx: Transaction) -> None:
        tx.execute(RUN, ("half",))
        raise LookupError("half-way")

    results = await asyncio.gather(
        database.write(lambda tx: tx.execute(RUN, ("one",))),
        database.write(half),
        database.write(lambda tx: tx.execute(RUN, ("one",))),  # breaks UNIQUE
        database.write(lambda tx: tx.execute("nonsense")),
        database.write(lambda tx: tx.execute(RUN, ("two",))),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [
        sqlite3.Cursor,
        LookupError,
        sqlite3.IntegrityError,
        sqlite3.OperationalError,
        sqlite3.Cursor,
    ]
    assert await names(database) == {"one", "two"}


async def test_committed_changes_are_published_once_and_rolled_back_ones_never(database: Database) -> None:
    published: list[Changes] = []
    database.on_commit(published.append)

    def half(tx: Transaction) -> None:
        tx.changes.count("run", "half")
        raise LookupError("half-way")

    results = await asyncio.gather(
        database.write(lambda tx: tx.changes.count("run", "one")),
        database.write(half),
        database.write(lambda tx: tx.execute("nonsense")),
        database.write(lambda tx: tx.changes.count("run", "two", 2)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), LookupError, sqlite3.OperationalError, type(None)]
    assert sum((changes.counts for changes in published), Counter()) == {("run", "one"): 1, ("run", "two"): 2}


async def test_a_listener_that_fails_stops_neither_the_writer_nor_other_listeners(database: Database) -> None:
    published: list[Changes] = []

    def fail(_: Changes) -> None:
        raise LookupError("a bug")

    database.on_commit(fail)
    database.on_commit(published.append)
    for name in ("one", "two"):
        await database.write(lambda tx, name=name: tx.execute(RUN, (name,)).fetchall())  # type: ignore[misc]
    assert await names(database) == {"one", "two"}
    assert len(published) == 2


def test_a_run_whose_times_somebody_edited_has_no_duration_and_costs_no_other_its_own() -> None:
    kept, edited = (
        StatusChange(1, "a", None, RunStatus.RUNNING, RunStatus.COMPLETED, None, started_at, "2026-11-21T12:00:05.000Z")
        for started_at in ("2026-11-21T12:00:00.000Z", "2026-11-21 12:00:00")
    )
    assert kept.duration == timedelta(seconds=5)
    assert edited.duration is None


async def test_a_locked_database_is_distinguished_from_a_mistake_and_recovers(database: Database) -> None:
    database_path = database.path
    other = connect(database_path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="locked"):
        await database.write(lambda tx: tx.execute(RUN, ("refused",)))
    patient = asyncio.create_task(database.write_patiently(lambda tx: tx.execute(RUN, ("patient",))))
    await database.read(lambda c: c.execute("SELECT 1"))
    other.execute("ROLLBACK")
    other.close()
    await patient
    assert await names(database) == {"patient"}


async def test_a_lock_makes_each_writer_wait_once_not_once_for_each_other(database: Database) -> None:
    other = connect(database.path)
    other.execute("BEGIN IMMEDIATE")
    writes = [database.write(lambda tx, n=n: tx.execute(RUN, (f"{n}",))) for n in range(50)]  # type: ignore[misc]
    results = await asyncio.wait_for(asyncio.gather(*writes, return_exceptions=True), 20)
    assert {type(result) for result in results} == {StoreUnavailableError}
    other.close()


async def test_a_full_disk_loses_nothing_acknowledged(tmp_path: Path) -> None:
    async with open_state(tmp_path, NOW, accept_data_loss=False) as database:
        await database.write(lambda tx: tx.execute(RUN, ("before",)))
        limit = (tmp_path / DATABASE).stat().st_size // 4096 + 1
        await database.write(lambda tx: tx.execute(f"PRAGMA max_page_count = {limit}"))
        blob = "x" * 100_000
        with pytest.raises(StoreUnavailableError, match="full"):
            await database.write(lambda tx: tx.execute(RUN, (blob,)))
        await database.write(lambda tx: tx.execute("PRAGMA max_page_count = 1000000"))
        await database.write(lambda tx: tx.execute(RUN, ("after",)))
        assert await names(database) == {"before", "after"}


def test_a_database_that_finds_no_room_at_a_start_waits_for_it_whatever_the_disk_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with free space that is not for the daemon."""

    def connect_to_small(path: Path, **settings: bool) -> sqlite3.Connection:
        connection = connect(path, **settings)
        connection.execute("PRAGMA max_page_count = 2")
        return connection

    monkeypatch.setattr("daemon.store.state_dir.connect", connect_to_small)
    with pytest.raises(DiskFullError, match="the disk is full: free some space"):
        open_state(tmp_path, datetime.now(UTC), accept_data_loss=False)


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(StoreUnavailableError, match="readonly"):
        await database.read(lambda c: c.execute(RUN, ("x",)))


def test_every_table_of_the_contract_is_strict(tmp_path: Path) -> None:
    open_and_close(tmp_path)
    with contextlib.closing(connect(tmp_path / DATABASE)) as connection:
        tables = {
            row["name"]: row["strict"] for row in connection.execute("PRAGMA table_list") if row["schema"] == "main"
        }
    named = {
        "schedules",
        "schedule_revisions",
        "fires",
        "runs",
        "events",
        "steps",
        "hooks",
        "cancellation_flags",
        "workspaces",
    }
    assert named <= tables.keys()
    assert all(tables[name] for name in named)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE runs SET status = 'completed' WHERE id = 1",  # without completed_at
        "UPDATE runs SET status = 'running' WHERE id = 1",  # without started_at
        "UPDATE runs SET status = 'happy' WHERE id = 1",
        "UPDATE runs SET attempt = 'x' WHERE id = 1",
        "INSERT INTO events (run_id, number, at, type) VALUES (99, 1, 'x', 'x')",
    ],
)
async def test_the_schema_refuses_what_cannot_be(database: Database, sql: str) -> None:
    await database.write(lambda tx: tx.execute(RUN, ("r",)))
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(lambda tx: tx.execute(sql))


def open_and_close(state_dir: Path, *, accept_data_loss: bool = False) -> None:
    async def go() -> None:
        async with open_state(state_dir, NOW, accept_data_loss=accept_data_loss):
            pass

    asyncio.run(go())


def add_run(tx: Transaction) -> int:
    return tx.execute(RUN, (str(uuid.uuid4()),)).lastrowid or 0


def give_runs(state_dir: Path, count: int) -> list[int]:
    async def go() -> list[int]:
        async with open_state(state_dir, NOW, accept_data_loss=False) as database:
            return [await database.write(add_run) for _ in range(count)]

    return asyncio.run(go())


# the witness


def test_the_witness_follows_the_highest_run_number(tmp_path: Path) -> None:
    assert give_runs(tmp_path, 5)[-1] == 5
    witness = read_witness(tmp_path)
    assert witness is not None
    assert witness.highest_run == 5


def _remove_database(state_dir: Path) -> None:
    for path in state_dir.glob("state.db*"):
        path.unlink()


def _empty_database(state_dir: Path) -> None:
    _remove_database(state_dir)
    (state_dir / DATABASE).touch()


def _replace_database(state_dir: Path) -> None:
    other = state_dir / "other"
    other.mkdir()
    open_and_close(other)
    _remove_database(state_dir)
    (other / DATABASE).rename(state_dir / DATABASE)


def _lose_tail(state_dir: Path) -> None:
    with contextlib.closing(connect(state_dir / DATABASE)) as connection:
        connection.execute("DELETE FROM runs WHERE id > 3")
        connection.execute("UPDATE sqlite_sequence SET seq = 3 WHERE name = 'runs'")


def _lose_writes_that_gave_no_number(state_dir: Path) -> None:
    copy = (state_dir / DATABASE).read_bytes()
    write_events(state_dir)
    (state_dir / DATABASE).write_bytes(copy)


def write_events(state_dir: Path) -> None:
    async def go() -> None:
        async with open_state(state_dir, NOW, accept_data_loss=False) as database:
            await database.write(lambda tx: tx.execute("UPDATE runs SET error = 'x' WHERE id = 1"))

    asyncio.run(go())


@pytest.mark.parametrize(
    "damage",
    [_remove_database, _empty_database, _replace_database, _lose_tail, _lose_writes_that_gave_no_number],
)
def test_a_lost_database_is_refused_and_numbers_continue_once_accepted(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    give_runs(tmp_path, 5)
    damage(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(StoreError, match="accept-data-loss"):
        open_and_close(tmp_path)
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / DATABASE).exists() == (tmp_path / DATABASE in before)
    open_and_close(tmp_path, accept_data_loss=True)
    assert give_runs(tmp_path, 1)[0] > 5


@pytest.mark.parametrize("sql", ["CREATE TABLE mine (a)", "CREATE TABLE runs (a)", "PRAGMA user_version = 1"])
def test_a_foreign_database_is_refused_untouched(tmp_path: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.execute(sql)
        connection.execute("CREATE TABLE other (a)")
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(StoreError, match="not a database of agentcron"):
        open_and_close(tmp_path)
    assert (tmp_path / DATABASE).read_bytes() == before


def test_a_database_without_its_witness_gets_a_new_one(tmp_path: Path) -> None:
    give_runs(tmp_path, 3)
    (tmp_path / "witness.json").unlink()
    open_and_close(tmp_path)
    witness = read_witness(tmp_path)
    assert witness is not None
    assert witness.highest_run == 3


def test_an_unreadable_witness_is_refused(tmp_path: Path) -> None:
    open_and_close(tmp_path)
    (tmp_path / "witness.json").write_text("{")
    with pytest.raises(StoreError, match="witness"):
        open_and_close(tmp_path)


def test_the_witness_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_witness(tmp_path, Witness("a", 1, 1))
    write_witness(tmp_path, Witness("b", 2, 2))
    assert read_witness(tmp_path) == Witness("b", 2, 2)
    assert list(tmp_path.iterdir()) == [tmp_path / "witness.json"]


# modes


def test_no_file_of_the_state_is_open_to_others(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        give_runs(tmp_path, 1)
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_state_dir_is_closed_to_others_unless_another_user_owns_it(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir(mode=0o755)
    (tmp_path / "theirs/file").touch()
    for name in ("ours", "theirs", "theirs"):  # the second start finds what the first one left there
        DaemonLock(tmp_path / name).release()
    (tmp_path / "ours").chmod(0o755)
    DaemonLock(tmp_path / "ours").release()
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "theirs").stat().st_mode & 0o777 == 0o755


# the lock


def test_a_second_daemon_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert running_daemon(tmp_path) == holder.pid
    with pytest.raises(RefusedError, match=f"pid {holder.pid}"):
        DaemonLock(tmp_path)
    holder.communicate("")
    assert running_daemon(tmp_path) is None
    DaemonLock(tmp_path).release()


_HOLD = """
import sys
import uuid
from pathlib import Path
from daemon.store.lock import DaemonLock
lock = DaemonLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
async def test_what_a_writer_is_told_is_true_whatever_the_writers_task_suffers(tmp_path: Path, *, late: bool) -> None:
    plan = Plan(range(1, 12), late=late)
    asyncio.get_running_loop().set_task_factory(TaskFactory({"Database._drain": plan}))
    async with open_state(tmp_path, NOW, accept_data_loss=False) as database:
        published: list[Changes] = []
        database.on_commit(published.append)
        told: dict[str, bool] = {}
        for number in range(200):
            name = f"r{number}"
            written = await asyncio.gather(database.write(partial(_count_and_insert, name)), return_exceptions=True)
            told[name] = not isinstance(written[0], Exception)
        assert plan.is_done
        assert await names(database) == {name for name, is_written in told.items() if is_written}
        assert all(told.values())
        assert sum(changes.counts["row", "x"] for changes in published) == 200


def _count_and_insert(name: str, tx: Transaction) -> None:
    tx.execute(RUN, (name,))
    tx.changes.count("row", "x")


async def test_a_closure_that_raises_stop_iteration_blocks_nobody(database: Database) -> None:
    def stop(_: Transaction) -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await database.write(stop)
    await database.write(lambda tx: tx.execute(RUN, ("one",)))
    assert await names(database) == {"one"}


async def test_a_savepoint_is_undone_after_an_error_of_a_statement(database: Database) -> None:
    def attempt(tx: Transaction) -> None:
        tx.execute(RUN, ("one",))
        with contextlib.suppress(sqlite3.OperationalError), tx.savepoint():
            tx.execute(RUN, ("two",))
            tx.execute("SELECT abs(-9223372036854775807 - 1)").fetchone()
        tx.execute(RUN, ("three",))

    await database.write(attempt)
    assert await names(database) == {"one", "three"}


class Refusals:
    """Statements that SQLite refuses some times, as it may after an error of the disk; each of them, if negative."""

    def __init__(self, **left: int) -> None:
        self._left = left

    def __call__(self, action: int, first: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_TRANSACTION and self._left.get(str(first), 0):
            self._left[str(first)] -= 1
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK


async def refuse(database: Database, **times: int) -> None:
    await database._writer.run(lambda connection: connection.set_authorizer(Refusals(**times)))


async def test_a_rollback_that_fails_is_no_error_of_those_who_wait_and_is_made_up_for(database: Database) -> None:
    await refuse(database, ROLLBACK=2)
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(lambda tx: [tx.execute(RUN, ("twice",)) for _ in range(2)])
    with pytest.raises(StoreUnavailableError, match="not authorized"):
        await database.write(lambda tx: tx.execute(RUN, ("one",)))
    await database.write_patiently(lambda tx: tx.execute(RUN, ("two",)))
    assert await names(database) == {"two"}


async def test_a_transaction_that_cannot_begin_is_no_error_of_those_who_wait(database: Database) -> None:
    await refuse(database, BEGIN=1)
    with pytest.raises(StoreUnavailableError, match="not authorized"):
        await database.write(lambda tx: tx.execute(RUN, ("one",)))
    await refuse(database, BEGIN=1)
    await database.write_patiently(lambda tx: tx.execute(RUN, ("two",)))
    assert await names(database) == {"two"}


async def test_foreign_keys_are_checked_again_also_after_a_rollback_that_failed(database: Database) -> None:
    await refuse(database, ROLLBACK=1)
    with pytest.raises(sqlite3.IntegrityError):
        await database.write_without_keys(lambda tx: [tx.execute(RUN, ("twice",)) for _ in range(2)])
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        await database.write(
            lambda tx: tx.execute("INSERT INTO events (run_id, number, at, type) VALUES (99, 1, 'x', 'x')")
        )
    await database.write(lambda tx: tx.execute(RUN, ("one",)))
    assert await names(database) == {"one"}


async def test_an_unexpected_error_of_the_writer_lets_patient_callers_retry(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(*_: object, **__: object) -> list[object]:
        monkeypatch.undo()
        raise LookupError("a bug")

    monkeypatch.setattr(database, "_commit_and_witness", fail_once)
    await database.write_patiently(lambda tx: tx.execute(RUN, ("one",)))
    assert await names(database) == {"one"}


async def test_the_write_ahead_log_shrinks_after_a_long_read(database: Database) -> None:
    log = database.path.with_name("state.db-wal")
    reader = connect(database.path, read_only=True)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM runs").fetchone()
    for number in range(10):
        await database.write(lambda tx, number=number: tx.execute(RUN, (str(number) * 1_000_000,)))  # type: ignore[misc]
    assert log.stat().st_size > 20 * 1024 * 1024
    reader.close()
    for number in range(3):  # the first one checkpoints, the second one begins the log anew
        await database.write(lambda tx, number=number: tx.execute(RUN, (f"small {number}",)))  # type: ignore[misc]
    assert log.stat().st_size <= 16 * 1024 * 1024
