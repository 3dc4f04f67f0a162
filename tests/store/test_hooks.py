"""Hook tokens in the database: in force once, and until they expire."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.store.database import Database
from daemon.store.hooks import add_hook, use_hook
from daemon.store.state_dir import open_state
from tests.support.ledger import SECOND, START, Ledger


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    (tmp_path / "state").mkdir()
    async with open_state(tmp_path / "state", START, accept_data_loss=False) as database:
        ledger = Ledger(database, tmp_path)
        await ledger.declare()
        await ledger.decide(START + 10 * SECOND)
        yield database


async def test_a_token_is_in_force_once_and_until_it_expires(database: Database) -> None:
    minute = timedelta(minutes=1)
    await database.write(lambda tx: add_hook(tx, 1, "hash", START, START + minute))
    assert await database.write(lambda tx: use_hook(tx, "other", START)) is None
    assert await database.write(lambda tx: use_hook(tx, "hash", START + minute)) is None
    await database.write(lambda tx: add_hook(tx, 1, "hash", START, START + 2 * minute))  # delivered again
    assert await database.write(lambda tx: use_hook(tx, "hash", START + minute)) == 1
    assert await database.write(lambda tx: use_hook(tx, "hash", START + minute)) is None
