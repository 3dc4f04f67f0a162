"""A history of runs in a real database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.store.state_dir import open_state
from tests.support.retention_history import NOW, History


@pytest.fixture
async def history(tmp_path: Path) -> AsyncIterator[History]:
    """An empty history of agents `a` and `b`; the schedule 1 is there."""
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    async with open_state(state_dir, NOW, accept_data_loss=False) as database:
        found = History(database, state_dir)
        await found.schedule(1)
        yield found
