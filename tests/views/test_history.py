"""History that can be asked: spans, outcomes, pages, and schedules that were deleted."""

import json
from datetime import timedelta

from daemon.config.schema import Config
from daemon.schedules.revision import Revision, remove
from daemon.store.connection import Transaction
from daemon.store.schedules import get_schedule, get_schedule_by_id
from daemon.units import format_instant
from daemon.views.history import Chosen, fires_page, revisions_page
from daemon.views.runs import runs_page
from daemon.views.schedules import deleted_page
from tests.support.api import SCHEDULES, call, create
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.ledger import SECOND, START, Ledger, due

TEXT = """\
[daemon]
state_dir = "state"
[control]
socket = "c.sock"
[agents.a]
command = ["true"]
"""


async def asked(ledger: Ledger, first: int | None, last: int | None, outcome: str | None = None) -> list[str]:
    chosen = Chosen(None if first is None else due(first), None if last is None else due(last), outcome)
    page = await ledger.database.read(lambda c: fires_page(c, 1, 100, None, None, chosen))
    assert page["total"] == len(page["fires"])
    return [fire["scheduled_for"] for fire in page["fires"]]


async def test_fires_are_chosen_by_due_time_and_outcome(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 40 * SECOND)  # the first starts, the others find it unfinished
    assert await asked(ledger, 20, 30) == [due(30), due(20)]
    assert await asked(ledger, 30, None) == [due(40), due(30)]
    assert await asked(ledger, None, 10) == [due(10)]
    assert await asked(ledger, None, None, "launched") == [due(10)]
    assert await asked(ledger, 20, 30, "launched") == []


async def test_a_summary_is_found_by_any_due_time_that_it_covers(ledger: Ledger) -> None:
    await ledger.declare('catchup = "none"')
    ledger.started = START + 100_000 * SECOND
    await ledger.decide(START + 100_000 * SECOND)
    assert await asked(ledger, 50_000, 50_010) == [due(10)]


async def test_runs_are_chosen_by_due_time_and_by_one_of_the_schedules_that_had_a_name(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"')
    await ledger.decide(START + 30 * SECOND)
    now = START + 31 * SECOND

    def delete(tx: Transaction) -> None:
        row = get_schedule(tx, "a", "s")
        assert row is not None
        remove(tx, row, now, Revision("config", "delete"))

    await ledger.database.write(delete)
    await ledger.database.write(lambda tx: tx.execute("UPDATE schedules SET source = 'created'"))
    await ledger.declare('overlap = "allow_all"', at=now)
    await ledger.decide(START + 40 * SECOND)

    async def found(address: str, first: str | None = None, last: str | None = None) -> list[int]:
        page = await ledger.database.read(lambda c: runs_page(c, address=address, first=first, last=last, limit=9))
        assert page["total"] == len(page["runs"])
        return [run["id"] for run in page["runs"]]

    assert await found("a/s") == [4, 3, 2, 1]
    assert await found("a/s@1") == [3, 2, 1]
    assert await found("a/s@2") == [4]
    assert await found("b/s@2") == []
    assert await found("a/s", due(20), due(30)) == [3, 2]
    listed = await ledger.database.read(lambda c: deleted_page(c, Config(), now, None, 9, None, inputs=False))
    [gone] = listed["run_schedules"]
    assert (gone["id"], gone["state"], gone["deleted_at"]) == (1, "deleted", format_instant(now))
    row = await ledger.database.read(lambda c: get_schedule_by_id(c, 1))
    assert row is not None
    page = await ledger.database.read(lambda c: revisions_page(c, 1, 9, None))
    assert [entry["action"] for entry in page["revisions"]] == ["delete", "create"]


def said(daemon: DaemonProcess, *arguments: str) -> str:
    answer = daemon.cli(*arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_a_deleted_schedule_stays_reachable(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TEXT)
    for note in ("first", "second"):
        create(daemon)
        said(daemon, "schedules", "pause", "a/s", "--note", note)
        said(daemon, "schedules", "delete", "a/s")
    assert call(daemon, "GET", f"{SCHEDULES}/s").status == 404
    assert [one["id"] for one in call(daemon, "GET", f"{SCHEDULES}?deleted=true").body["run_schedules"]] == [2, 1]
    assert call(daemon, "GET", "/schedules/1").body["state"] == "deleted"
    notes = [entry["note"] for entry in call(daemon, "GET", "/schedules/1/revisions").body["revisions"]]
    assert notes == [None, "first", None]
    assert call(daemon, "GET", "/schedules/1/fires").body["total"] == 0
    assert [call(daemon, "GET", f"/schedules/{number}").status for number in (3, "x", 10**30)] == [404, 404, 404]

    listed = said(daemon, "schedules", "list", "--deleted")
    assert "a/s@1" in listed
    assert "a/s@2" in listed
    history = said(daemon, "schedules", "history", "a/s@1")
    assert ("first" in history, "second" in history) == (True, False)
    assert "second" in said(daemon, "schedules", "history", "a/s")  # the one deleted last
    assert "deleted" in said(daemon, "schedules", "show", "a/s@1")
    for wrong in ("a/s@3", "a/other@1"):
        assert daemon.cli("schedules", "history", wrong).returncode == 1
    assert daemon.cli("schedules", "history", "a/s@x").returncode != 0
    daemon.config.write_text('[control]\nsocket = "c.sock"\n[agents.a]\n')  # only the daemon can answer now
    assert "deleted" in said(daemon, "schedules", "show", "a/s@1")
    for wrong in ("b/s@1", "a/other@1"):
        for command in ("show", "history"):
            answer = daemon.cli("schedules", command, wrong)
            assert (answer.returncode, f"no schedule {wrong}" in answer.stderr) == (1, True)


def test_the_api_and_the_command_line_choose_alike(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TEXT + '[agents.a.schedules.s]\nevery = "1s"\noverlap = "allow_all"\n')
    daemon.wait_for_row("SELECT 1 FROM (SELECT count(*) AS n FROM fires WHERE outcome = 'launched') WHERE n >= 3")
    said(daemon, "schedules", "pause", "a/s")
    before = daemon.config.read_text()
    times = [row["scheduled_for"] for row in daemon.query("SELECT scheduled_for FROM fires ORDER BY 1 DESC")]
    for arguments, query, expected in (
        (("--from", times[2], "--to", times[1]), f"?from={times[2]}&to={times[1]}", times[1:3]),
        (("--outcome", "launched", "--limit", "1"), "?outcome=launched&limit=1", times[:1]),
        (("--outcome", "skipped_budget"), "?outcome=skipped_budget", []),
        (("--cursor", times[0], "--limit", "1"), f"?cursor={times[0]}&limit=1", times[1:2]),
    ):
        fires = call(daemon, "GET", f"{SCHEDULES}/s/fires{query}").body["fires"]
        assert [fire["scheduled_for"] for fire in fires] == expected
        shown = said(daemon, "schedules", "history", "a/s", *arguments)
        assert sum(outcome in line for line in shown.splitlines() for outcome in ("launched",)) == len(expected)
    for config in (before, '[control]\nsocket = "c.sock"\n[agents.a]\n'):  # then the daemon answers
        daemon.config.write_text(config)
        first, second = (
            json.loads(said(daemon, "schedules", "history", "a/s", "--limit", "1", "--json", *cursor))
            for cursor in ((), ("--cursor", times[0]))
        )
        assert [entry["action"] for entry in first["revisions"]] == ["pause"]
        assert (second["revisions"], second["fires"][0]["scheduled_for"]) == ([], times[1])
        none = json.loads(said(daemon, "schedules", "history", "a/s", "--outcome", "skipped_budget", "--json"))
        assert none["fires"] == []
        past = json.loads(said(daemon, "schedules", "history", "a/s", "--to", "2026-01-01T00:00:00Z", "--json"))
        assert (past["fires"], past["revisions"]) == ([], [])
        oldest = json.loads(said(daemon, "runs", "list", "--cursor", "2", "--json"))
        assert [run["id"] for run in oldest["runs"]] == [1]
    assert "pause" not in said(daemon, "schedules", "history", "a/s", "--cursor", times[0])
    daemon.config.write_text(before)
    runs = call(daemon, "GET", f"/runs?schedule=a/s@1&from={times[1]}&to={times[1]}").body
    assert [run["scheduled_for"] for run in runs["runs"]] == [times[1]]
    assert said(daemon, "runs", "list", "--from", times[1], "--to", times[1]).count("a/s") == 1
    assert call(daemon, "GET", f"{SCHEDULES}/s/fires?from=tuesday").status == 400
    assert call(daemon, "GET", f"{SCHEDULES}/s/fires?outcome=lost").status == 422
    assert daemon.cli("schedules", "history", "a/s", "--outcome", "lost").returncode == 2
    later = format_instant(START + timedelta(days=1))
    assert "No runs." in said(daemon, "runs", "list", "--from", later, "--to", later)
    for unknown, words in (("--agent=nope", "no agent 'nope'"), ("--schedule=a/nope", "no schedule a/nope")):
        told = daemon.cli("runs", "list", unknown)
        assert (told.returncode, told.stdout, told.stderr.count("warning: ")) == (0, "No runs.\n", 1)
        assert words in told.stderr
    assert "No such due times." in said(daemon, "schedules", "history", "a/s", "--to", "2026-01-01T00:00:00Z")
    for command in (("schedules", "history", "a/s"), ("runs", "list")):
        refused = daemon.cli(*command, "--from", times[1], "--to", "2026-01-01T00:00:00Z")
        assert (refused.returncode, "from is after to" in refused.stderr) == (2, True), refused.stderr
    assert call(daemon, "GET", f"{SCHEDULES}/s/fires?from={times[1]}&to=2026-01-01T00:00:00Z").status == 400


def test_the_history_names_what_was_changed_and_which_due_time_is_skipped(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TEXT)
    said(daemon, "schedules", "create", "a/c", "--cron", "0 7 1 1 *")
    said(daemon, "schedules", "update", "a/c", "--cron", "0 8 1 1 *", "--jitter", "5s")
    said(daemon, "schedules", "skip", "a/c", "2100-01-01T08:00:00Z")
    lines = said(daemon, "schedules", "history", "a/c").splitlines()
    [updated] = [line for line in lines if " update " in line]
    [skipped] = [line for line in lines if " skip " in line]
    assert "cron, jitter" in updated
    assert "2100-01-01 08:00:00 UTC" in skipped
