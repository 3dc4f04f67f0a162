"""When the problem that an environment is near its quota, or exceeds it, ends."""

from daemon.config.live import LiveConfig
from daemon.lifecycle.startup import prepare_database
from daemon.maintenance.workspace_selection import WorkspaceSelection
from daemon.store.notifications import known_subjects
from tests.support.retention_history import AGENTS, History, ago

_KNOWN = "INSERT INTO notify_states (subject, state, since, count, told_at, gap_ms) VALUES (?1, 'exceed', ?2, 1, ?2, 1)"


async def test_a_quota_is_kept_once_the_last_workspace_is_gone(history: History) -> None:
    await history.workspace(await history.run(days=0.1), "present", kept=False)
    await history.execute("UPDATE workspaces SET bytes = 5000")
    config = history.config("", AGENTS + "[environments.e]\nquota = '1KB'\n")
    selection = WorkspaceSelection(history.home(), LiveConfig(config))
    assert len(await selection.now_removable(None, ())) == 1
    assert selection.quotas["e"].state == "exceed"
    await history.execute("UPDATE workspaces SET state = 'removed'")
    assert await selection.now_removable(None, ()) == []
    assert selection.quotas == {}


async def test_a_sweep_ends_the_problem_of_an_environment_without_workspaces(history: History) -> None:
    """Also if that is not in the config any more, and an earlier daemon noted the problem."""
    await history.execute(_KNOWN, "quota:e", ago(1))
    await history.cleanup().sweep()
    assert await history.database.read(lambda c: known_subjects(c, "quota:")) == []


async def test_a_start_forgets_the_problems_of_agents_that_were_removed(history: History) -> None:
    for subject in ("agent:a", "budget:a", "agent:gone", "budget:gone", "schedule:1", "quota:e"):
        await history.execute(_KNOWN, subject, ago(1))
    await prepare_database(history.home(), LiveConfig(history.config("", AGENTS)))
    left = await history.query("SELECT subject FROM notify_states ORDER BY subject")
    assert left == ["agent:a", "budget:a", "quota:e", "schedule:1"]
