"""What the database holds of work that was saved when a workspace was made again."""

import json
from pathlib import Path

from daemon.runs.workspace import record_prepared
from daemon.workspaces.jobs import PreparedWorkspace, SavedWork
from tests.support.retention_history import NOW, History


async def test_work_saved_of_an_earlier_attempt_is_counted_and_in_the_events(history: History) -> None:
    run = await history.run()
    saved = SavedWork("artifacts/saved-work", commits=1, stored=4096, restore=("git init",))
    prepared = PreparedWorkspace(Path("/state/tasks/1"), "ab" * 20, saved)
    await history.database.write(lambda tx: record_prepared(tx, run, "site", prepared, NOW))
    assert await history.query("SELECT saved_bytes FROM workspaces WHERE run_id = ?", run) == [4096]
    events = await history.query("SELECT type, data FROM events WHERE run_id = ? ORDER BY number", run)
    assert [kind for kind, _ in events[-2:]] == ["workspace_cleaned", "workspace_prepared"]
    assert json.loads(events[-2][1])["saved"]["restore"] == ["git init"]
