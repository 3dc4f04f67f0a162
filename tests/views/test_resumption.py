"""The line that continues the session of a run by hand."""

import json
from pathlib import Path

import pytest

from daemon.config.loading import load_config
from daemon.model import RunStatus
from daemon.store.connection import Transaction
from daemon.store.runs import get_run
from daemon.store.workspaces import add_workspace, get_workspace, mark_removed
from daemon.views.resumption import resume_command
from tests.support.configs import config_text
from tests.support.ledger import SECOND, START, Ledger

HERE = {"mode": "local", "path": "a b"}
SITE = {"mode": "git", "repository": "/origin"}


async def line(
    ledger: Ledger, environment: str | None, *, session: str | None = "s-1", program: str = "claude", kept: bool = True
) -> str | None:
    """Return the line of a run that worked in an environment; of a git one, `kept` says whether it is still there."""
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await ledger.move(1, RunStatus.RUNNING)
    where = {} if environment is None else {"environment": environment}
    agents = {"a": {"command": ["claude"], **where}}
    (ledger.folder / "agents.toml").write_text(config_text(environments={"here": HERE, "site": SITE}, agents=agents))
    config = load_config(ledger.folder / "agents.toml")

    def write(tx: Transaction) -> None:
        tx.execute("UPDATE runs SET session = ?, settings = ?", (session, json.dumps({"result_format": program})))
        if environment == "site":
            add_workspace(tx, 1, "site", Path("/state/tasks/1"), START)
            if not kept:
                mark_removed(tx, 1, START)

    await ledger.database.write(write)
    run = await ledger.database.read(lambda c: get_run(c, 1))
    workspace = await ledger.database.read(lambda c: get_workspace(c, 1))
    assert run is not None
    return resume_command(run, workspace, Path("/state"), config)


@pytest.mark.parametrize(
    ("environment", "place"), [(None, "/state/runs/1/work"), ("site", "/state/tasks/1"), ("here", "'{folder}/a b'")]
)
async def test_it_leads_to_where_the_agent_worked(ledger: Ledger, environment: str | None, place: str) -> None:
    expected = f"cd {place.format(folder=ledger.folder)} && claude --resume s-1"
    assert await line(ledger, environment) == expected


@pytest.mark.parametrize(
    ("environment", "keys"),
    [("site", {"kept": False}), (None, {"session": None}), (None, {"program": "none"}), (None, {"session": "-x; y"})],
)
async def test_there_is_none_for_what_cannot_be_continued(
    ledger: Ledger, environment: str | None, keys: dict[str, object]
) -> None:
    assert await line(ledger, environment, **keys) is None  # type: ignore[arg-type]
