"""Records of kept workspaces: which run works there, and what is recorded when another has got its own meanwhile."""

from pathlib import Path

import pytest

from daemon.runs.kept_workspaces import record_moved, takes_kept_workspace
from daemon.runs.workspace import record_removed
from daemon.store.connection import Transaction
from daemon.store.runs import get_run
from daemon.store.workspaces import add_workspace, get_workspace, present_workspaces
from daemon.workspaces.jobs import CleanedWorkspace, SavedWork
from tests.support.retention_history import NOW, History

AGENTS = """\
[environments.e]
mode = "git"
repository = "origin"
workspace = "keep"
[agents.a]
command = ["true"]
environment = "e"
"""


@pytest.mark.parametrize(("folder", "takes"), [("1", False), ("schedule-1", True), (None, True)])
async def test_a_run_that_is_claimed_again_stays_in_its_own_workspace(
    history: History, folder: str | None, takes: bool
) -> None:
    number, config = await history.run("pending", schedule=1), history.config("", AGENTS)
    if folder is not None:
        await history.workspace(number, "present", kept=False, path=f"/state/environments/e/tasks/{folder}")

    def claimed(tx: Transaction) -> bool:
        run = get_run(tx, number)
        assert run is not None
        return takes_kept_workspace(tx, run, config, NOW)

    assert await history.database.write(claimed) is takes
    told = await history.query("SELECT type FROM events WHERE run_id = ?", number)
    assert told == ([] if takes else ["workspace_of_its_own"])


@pytest.mark.parametrize("outcome", ["removed", "moved"])
async def test_what_made_room_leaves_the_workspace_that_its_run_got_meanwhile(history: History, outcome: str) -> None:
    number, home = await history.run("running", schedule=1), history.home()
    tasks = Path("/state/environments/e/tasks")
    await history.workspace(number, "present", kept=False, path=str(tasks / "schedule-1"))
    owner = await history.database.read(lambda c: get_workspace(c, number))
    assert owner is not None
    saved = SavedWork(folder="saved-work", stored=99)

    def recorded(tx: Transaction) -> None:
        add_workspace(tx, number, "e", tasks / str(number), NOW)
        if outcome == "removed":
            left = CleanedWorkspace(gone=True, saved=saved)
            record_removed(tx, number, "e", tasks / "schedule-1", left, NOW)
        else:
            record_moved(home, owner, tasks.parent / "quarantine" / "schedule-1", "too large", tx)

    await history.database.write(recorded)
    [workspace] = await history.database.read(present_workspaces)
    assert workspace.path == str(tasks / str(number))
    assert await history.query("SELECT saved_bytes FROM workspaces") == [99 if outcome == "removed" else 0]
