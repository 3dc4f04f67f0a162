"""Texts that only a damaged database has: cut when they are read, before they are copied any further."""

import json
from pathlib import Path

from daemon.config.schema import Config
from daemon.store.notifications import first_of_each
from daemon.store.rows import LONGEST_GIVEN, LONGEST_SHOWN
from daemon.store.run_queue import startable
from daemon.store.runs import get_run
from daemon.store.schedules import live_schedules
from daemon.store.workspaces import add_workspace, get_workspace
from daemon.views.history import history_view
from daemon.views.runs import run_details, runs_page
from tests.support.ledger import SECOND, START, Ledger

HUGE = "x" * (LONGEST_SHOWN + 1000)
OVERSIZED = "x" * (LONGEST_GIVEN + 1000)


async def test_an_oversized_text_of_a_run_is_cut_when_it_is_read(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)

    await ledger.database.write(
        lambda tx: (
            tx.execute("UPDATE runs SET display_name = ?1, error = ?1, message = ?1", (HUGE,)),
            tx.execute("INSERT INTO steps VALUES (1, 'work', '2026-11-21T12:00:00.000Z', NULL, ?)", (HUGE,)),
        )
    )
    run = await ledger.database.read(lambda c: get_run(c, 1))
    assert run is not None
    details = await ledger.database.read(lambda c: run_details(c, run, ledger.folder, Config()))
    [listed] = (await ledger.database.read(lambda c: runs_page(c, limit=10)))["runs"]
    for view in (details, listed):
        assert {len(view[key] or "") for key in ("display_name", "error", "message")} == {LONGEST_SHOWN}
    assert [len(step["error"]) for step in details["steps"]] == [LONGEST_SHOWN]


async def test_an_oversized_input_is_cut_when_it_is_read_and_never_given_to_an_agent(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await ledger.database.write(lambda tx: tx.execute("UPDATE runs SET input_content = ?", (OVERSIZED,)))
    run = await ledger.database.read(lambda c: get_run(c, 1))
    assert run is not None
    assert len(run.input_content) == LONGEST_GIVEN + 1
    assert run.unusable == "its input in the database is longer than 16 MiB, which agentcron never writes"
    [head] = (await ledger.database.write(lambda tx: startable(tx, START + 10 * SECOND, [], 10)))[0]
    assert head.input_content == ""


async def test_an_oversized_input_of_a_schedule_is_cut_when_it_is_read(ledger: Ledger) -> None:
    await ledger.declare()
    sql = "UPDATE schedules SET input_content = ?, description = ?, pause_note = ?"
    await ledger.database.write(lambda tx: tx.execute(sql, (OVERSIZED, HUGE, HUGE)))
    [schedule] = (await ledger.database.read(live_schedules))[0]
    assert len(schedule.definition["input_content"]) == LONGEST_GIVEN + 1
    assert {len(text or "") for text in (schedule.definition["description"], schedule.pause_note)} == {LONGEST_SHOWN}
    await ledger.decide(START + 10 * SECOND)
    run = await ledger.database.read(lambda c: get_run(c, 1))
    assert run is not None
    assert run.unusable


async def test_an_oversized_event_is_omitted_and_the_others_are_shown(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    sql = "INSERT INTO events VALUES (1, ?, '2026-11-21T12:00:00.000Z', 'workspace_cleaned', ?)"
    data = json.dumps({"saved": {"folder": OVERSIZED, "restore": []}})
    await ledger.database.write(lambda tx: (tx.execute(sql, (8, data)), tx.execute(sql, (9, '{"saved": null}'))))
    run = await ledger.database.read(lambda c: get_run(c, 1))
    assert run is not None
    details = await ledger.database.read(lambda c: run_details(c, run, ledger.folder, Config()))
    assert [event["data"] for event in details["events"][-2:]] == [
        {"omitted": "it is longer than 4 MiB"},
        {"saved": None},
    ]


async def test_oversized_reasons_and_notes_of_a_history_are_cut(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await ledger.database.write(
        lambda tx: (
            tx.execute("UPDATE fires SET reason = ?", (HUGE,)),
            tx.execute("UPDATE schedule_revisions SET note = ?", (HUGE,)),
        )
    )
    history = await ledger.database.read(lambda c: history_view(c, 1, 10))
    assert [len(fire["reason"] or "") for fire in history["fires"]] == [LONGEST_SHOWN]
    assert {len(revision["note"] or "") for revision in history["revisions"]} == {LONGEST_SHOWN}


async def test_an_oversized_notification_is_damaged(ledger: Ledger) -> None:
    event = json.dumps({"text": OVERSIZED})
    sql = "INSERT INTO notifications (target, event, created_at, next_try_at) VALUES ('x', ?1, ?2, ?2)"
    await ledger.database.write(lambda tx: tx.execute(sql, (event, "2026-11-21T12:00:00.000Z")))
    assert await ledger.database.read(first_of_each) == ([], [(1, "x")])


async def test_an_oversized_note_of_a_workspace_is_cut(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await ledger.database.write(lambda tx: add_workspace(tx, 1, "site", Path("/nowhere"), START))
    await ledger.database.write(lambda tx: tx.execute("UPDATE workspaces SET note = ?", (HUGE,)))
    workspace = await ledger.database.read(lambda c: get_workspace(c, 1))
    assert workspace is not None
    assert len(workspace.note or "") == LONGEST_SHOWN
