"""Texts that only a damaged database has: cut when they are read, before they are copied any further."""

from daemon.store.runs import LONGEST_SHOWN, get_run
from daemon.views.runs import run_details, runs_page
from tests.support.ledger import SECOND, START, Ledger

HUGE = "x" * (LONGEST_SHOWN + 1000)


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
    details = await ledger.database.read(lambda c: run_details(c, run, ledger.folder))
    [listed] = (await ledger.database.read(lambda c: runs_page(c, limit=10)))["runs"]
    for view in (details, listed):
        assert {len(view[key] or "") for key in ("display_name", "error", "message")} == {LONGEST_SHOWN}
    assert [len(step["error"]) for step in details["steps"]] == [LONGEST_SHOWN]
