"""What is reported: changes at once, a lasting failure at growing intervals, and the texts."""

import json
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest

from daemon import access, allowance
from daemon.agents.base import Outcome, RunSettings
from daemon.clock.alarm import decide_some
from daemon.config.live import LiveConfig
from daemon.config.loading import load_config
from daemon.config.schema import Notify
from daemon.fires.decision import Present
from daemon.model import FailureKind, RunStatus
from daemon.notify.formats import request_of
from daemon.notify.outbox import Notice, Outbox, host_name
from daemon.rules.budget import Budgets, Limits
from daemon.rules.notifications import NotifyReason, Standing, next_standing, next_try
from daemon.runs.finish import finish
from daemon.runs.start import start_run
from daemon.store.notifications import failing_schedules, paused_by_failure, set_standing
from daemon.units import format_instant
from tests.support.ledger import SECOND, START, Ledger

HOUR = timedelta(hours=1)
FUTURE = "2036-01-01T00:00:00.000Z"
OPS = """\
[agents.a]
command = ["true"]
[notify.ops]
url = "http://127.0.0.1:1"
on = ["failed", "interrupted", "missed", "recovered", "completed", "quota", "budget"]
"""


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    file = tmp_path / "notify.toml"
    file.write_text(OPS)
    return Outbox(LiveConfig(load_config(file, {})))


async def told(ledger: Ledger) -> list[dict[str, object]]:
    return [json.loads(str(row["event"])) for row in await ledger.select("SELECT event FROM notifications ORDER BY id")]


async def test_what_is_known_of_an_agent_is_forgotten_with_it(ledger: Ledger) -> None:
    standing, _ = next_standing(None, "failed", START)
    subjects = [f"{kind}:{agent}" for kind in ("agent", "budget", "budget-warning") for agent in ("a", "b")]
    of_the_host = ["budget-warning:", "budget:"]
    for subject in [*subjects, *of_the_host]:
        await ledger.database.write(partial(set_standing, subject=subject, standing=standing))
    await ledger.declare()
    left = {str(row["subject"]) for row in await ledger.select("SELECT subject FROM notify_states")}
    assert left == {*(subject for subject in subjects if subject.endswith(":a")), *of_the_host}


def test_a_state_is_reported_when_it_changes_and_then_at_growing_gaps() -> None:
    now, standing, when = START, None, []
    while now < START + 40 * HOUR:
        standing, said = next_standing(standing, "failed", now)
        if said is not None:
            when.append(((now - START) // HOUR, said))
        now += timedelta(minutes=30)
    still = [NotifyReason.STILL] * 5
    assert when == [(0, NotifyReason.CHANGED), *zip((1, 3, 7, 15, 31), still, strict=True)]
    assert standing is not None
    assert standing.count == 80
    assert next_standing(standing, None, now) == (None, NotifyReason.RECOVERED)
    assert next_standing(None, None, now) == (None, None)
    changed, said = next_standing(standing, "interrupted", now)
    assert said is NotifyReason.CHANGED
    assert changed is not None
    assert (changed.since, changed.count) == (START, 81)


def test_gaps_grow_to_a_day_and_survive_a_clock_that_was_ahead() -> None:
    ahead = Standing("failed", START, 5, START + timedelta(days=3650), timedelta(hours=24))
    known, said = next_standing(ahead, "failed", START)
    assert (known and known.told_at, said) == (START, None)
    assert known is not None
    known, said = next_standing(known, "failed", START + 24 * HOUR)
    assert (known and known.gap, said) == (timedelta(hours=24), NotifyReason.STILL)


def test_attempts_continue_at_growing_gaps() -> None:
    assert [next_try(tries).total_seconds() for tries in (1, 2, 3, 8, 9, 1000)] == [2, 4, 8, 256, 300, 300]


async def end(
    ledger: Ledger,
    outbox: Outbox,
    run: int,
    outcome: Outcome,
    settings: RunSettings = RunSettings(),  # noqa: B008 - it is frozen
    now: datetime = START,
) -> None:
    await ledger.move(run, RunStatus.RUNNING)
    await ledger.database.write(
        lambda tx: finish(tx, run, outcome, settings, now, instance="x", chance=0, outbox=outbox)
    )


async def test_only_the_last_attempt_is_reported(ledger: Ledger, outbox: Outbox) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await end(ledger, outbox, 1, Outcome(RunStatus.FAILED, "exit status 1"), RunSettings(attempts=2))
    assert await told(ledger) == []
    await end(
        ledger, outbox, 2, Outcome(RunStatus.FAILED, "exit status 2", kind=FailureKind.QUOTA), RunSettings(attempts=2)
    )
    [event] = await told(ledger)
    assert (event["event"], event["run_id"], event["error"], event["attempt"]) == ("failed", 2, "exit status 2", 2)
    assert event["failure_kind"] == "quota"
    assert {"id", "at", "host", "text", "agent", "schedule", "status", "since"} <= event.keys()


async def test_interrupted_is_another_state_than_failed_and_a_cancellation_is_none(
    ledger: Ledger, outbox: Outbox
) -> None:
    await ledger.declare('overlap = "allow_all"')
    await ledger.decide(START + 50 * SECOND)
    ends = [
        (RunStatus.FAILED, "failed"),
        (RunStatus.INTERRUPTED, "interrupted"),
        (RunStatus.CANCELLED, None),
        (RunStatus.COMPLETED, "completed"),
    ]
    for run, (status, _) in enumerate(ends, start=1):
        await end(ledger, outbox, run, Outcome(status, cancelled_by_us=True))
    kinds = [event["event"] for event in await told(ledger)]
    assert kinds == ["failed", "interrupted", "completed", "recovered"]


async def test_an_older_due_time_that_completes_late_is_no_recovery(ledger: Ledger, outbox: Outbox) -> None:
    await ledger.declare('overlap = "allow_all"')
    now = START + 60 * SECOND
    await ledger.decide(now)
    await ledger.database.write(
        lambda tx: tx.execute("UPDATE runs SET scheduled_for = ? WHERE id = 6", (FUTURE,)) and None
    )
    ends = {3: RunStatus.FAILED, 2: RunStatus.COMPLETED, 6: RunStatus.FAILED, 4: RunStatus.COMPLETED}
    ends |= {1: RunStatus.FAILED, 5: RunStatus.COMPLETED}
    told_by = {}
    for run, status in ends.items():
        before = len(await told(ledger))
        await end(ledger, outbox, run, Outcome(status), now=now)
        told_by[run] = [event["event"] for event in (await told(ledger))[before:]]
    assert told_by == {
        3: ["failed"],
        2: ["completed"],  # an older due time than that of the run that failed
        6: [],  # it still fails; with a due time that the clock has not reached, it decides nothing
        4: ["completed", "recovered"],
        1: ["failed"],
        5: ["completed", "recovered"],
    }


async def test_runs_without_a_schedule_are_reported_as_those_of_their_agent(ledger: Ledger, outbox: Outbox) -> None:
    columns = {"input_author": "user", "input_content": "", "task_params": "{}", "task_metadata": "{}"}
    request: dict[str, Any] = {"principal": "root", "now": START, "instance": "x", "limited": True}
    for status in (RunStatus.FAILED, RunStatus.FAILED, RunStatus.COMPLETED):
        run = await ledger.database.write(lambda tx: start_run(tx, "a", columns, None, **request))
        await end(ledger, outbox, run, Outcome(status))
    events = await told(ledger)
    assert [(event["event"], event["agent"], event["schedule"]) for event in events] == [
        ("failed", "a", None),
        ("completed", "a", None),
        ("recovered", "a", None),
    ]
    assert events[0]["text"] == f"{host_name()}: a failed (run 1)"
    assert events[2]["text"] == f"{host_name()}: a recovered after 2 failed runs (run 3)"
    assert await ledger.database.read(failing_schedules) == []  # a dead-man's switch watches schedules


async def test_missed_due_times_are_reported_once_with_their_number(ledger: Ledger, outbox: Outbox) -> None:
    await ledger.declare('catchup = "none"')
    now = START + 3600 * SECOND
    present = Present(now, now, frozenset({"a"}), "instance")
    await decide_some(ledger.database, present, outbox, 25)
    [event] = await told(ledger)
    assert (event["event"], event["schedule"], event["count"]) == ("missed", "a/s", 360)


async def test_a_spent_budget_of_the_host_is_reported_once_a_day_for_all(ledger: Ledger, outbox: Outbox) -> None:
    await ledger.declare('overlap = "allow_all"', '[agents.a.schedules.t]\nevery = "10s"')
    budgets = Budgets(host=Limits(runs=2))
    for seconds in (10, 20, 30):
        present = Present(START + seconds * SECOND, ledger.started, frozenset({"a"}), "x", budgets)
        await decide_some(ledger.database, present, outbox, 25)
    [event] = await told(ledger)
    assert (event["agent"], event["schedule"]) == (None, None)
    assert event["text"] == f"{host_name()}: the daily budget of the host is spent: 2 of 2 runs"


async def test_a_used_allowance_is_reported_for_the_schedule_whatever_the_host_may_spend(
    ledger: Ledger, outbox: Outbox
) -> None:
    await ledger.declare()
    await ledger.database.write(lambda tx: tx.execute("UPDATE schedules SET creator = 'alice'").fetchall())
    standings = {("alice", "a"): access.Standing(may_start=True, is_admin=False)}
    budgets, used = Budgets(host=Limits(runs=9)), {"alice": float(allowance.MOST_OF_FIRES)}
    now = START + 10 * SECOND
    present = Present(now, ledger.started, frozenset({"a"}), "x", budgets, standings=standings, used=used)
    await decide_some(ledger.database, present, outbox, 25)
    [event] = await told(ledger)
    assert (event["event"], event["agent"], event["schedule"]) == ("budget", "a", "a/s")
    assert "alice has created schedules" in str(event["text"])


async def test_a_spent_budget_is_reported_once_a_day(ledger: Ledger, outbox: Outbox) -> None:
    await ledger.declare('overlap = "allow_all"')
    for seconds in (10, 20, 30, 40, 24 * 3600):
        now = START + seconds * SECOND
        present = Present(now, ledger.started, frozenset({"a"}), "x", Budgets({"a": Limits(cost_usd=0.0)}))
        await decide_some(ledger.database, present, outbox, 25)
        ledger.started = now
    events = [event for event in await told(ledger) if event["event"] == "budget"]
    assert len(events) == 2
    assert "USD; the next start is due at" in str(events[0]["text"])


async def test_a_budget_that_is_nearly_spent_is_reported_once_a_day(ledger: Ledger, tmp_path: Path) -> None:
    budgets = "[budget]\ntokens_per_day = 1000\n[agents.a.budget]\nruns_per_day = 5\n"
    (tmp_path / "budget.toml").write_text(OPS + budgets)
    live = LiveConfig(load_config(tmp_path / "budget.toml", {}))
    outbox = Outbox(live)
    await ledger.declare('overlap = "allow_all"')
    for seconds in (20, 30, 40):
        present = Present(START + seconds * SECOND, ledger.started, frozenset({"a"}), "x", live.budgets)
        await decide_some(ledger.database, present, outbox, 25)
    assert [event["text"] for event in await told(ledger) if event["event"] == "budget"] != []
    for run, tokens in ((1, 700), (2, 100), (3, 50)):
        now = START + run * 3 * HOUR
        await end(ledger, outbox, run, Outcome(RunStatus.COMPLETED, usage={"input_tokens": tokens}), now=now)
    found = [event for event in await told(ledger) if event["event"] == "budget"]
    assert [(event["agent"], str(event["text"]).partition(": ")[2]) for event in found] == [
        ("a", "the daily budget of a is nearly spent: 4 of 5 runs"),
        (None, "the daily budget of the host is nearly spent: 800 of 1000 tokens"),
    ]
    day = START + 24 * HOUR
    change = "UPDATE runs SET created_at = ?"
    await ledger.database.write(lambda tx: tx.execute(change, (format_instant(day),)).fetchall())
    await end(ledger, outbox, 4, Outcome(RunStatus.FAILED), RunSettings(attempts=2), day)
    later = [str(event["text"]) for event in await told(ledger) if event["event"] == "budget"][2:]
    assert [text.partition(": ")[2] for text in later] == [
        "the daily budget of the host is nearly spent: 850 of 1000 tokens"
    ]


async def test_an_unchanged_state_is_not_reported_again(ledger: Ledger, outbox: Outbox) -> None:
    full = Notice("quota", "nearly full", subject="quota:e", state="near")
    for notice in (full, full, Notice("quota", "", subject="quota:e"), full):
        await ledger.database.write(lambda tx, notice=notice: outbox.add(tx, [notice], START))  # type: ignore[misc]
    assert [event["text"] for event in await told(ledger)] == [f"{host_name()}: nearly full"] * 2


async def test_every_text_names_the_host_whatever_that_is_called(
    ledger: Ledger, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "b\nx" + 80 * "\x1b")
    await ledger.database.write(lambda tx: outbox.add(tx, [Notice("quota", "full")], START))
    [event] = await told(ledger)
    host = r"b\nx" + 15 * r"\x1b"
    assert (event["host"], event["text"]) == (host, f"{host}: full")
    monkeypatch.setattr("socket.gethostname", lambda: "grün")
    await ledger.database.write(lambda tx: outbox.add(tx, [Notice("quota", "full")], START))
    event = (await told(ledger))[1]
    assert json.loads(request_of("json", event)[0])["text"] == "grün: full"
    assert json.loads(request_of("slack", event)[0]) == {"text": "grün: full"}
    body, headers = request_of("ntfy", event)
    assert (body.decode(), headers["Title"]) == ("grün: full", "agentcron on gr?n: quota")


async def test_each_pause_by_a_failure_is_reported_and_shown_until_a_person_resumes(
    ledger: Ledger, outbox: Outbox
) -> None:
    await ledger.declare("pause_on_failure = true", 'overlap = "allow_all"')
    await ledger.decide(START + 30 * SECOND)
    resume = "UPDATE schedules SET paused = 0, paused_at = NULL, pause_note = NULL"
    for run in (1, 2, 3):
        await ledger.database.write(lambda tx: tx.execute(resume) and None)
        await end(ledger, outbox, run, Outcome(RunStatus.FAILED, "exit status 1"))
    events = await told(ledger)
    way = "its schedule is paused until `agentcron schedules resume a/s`"
    assert [event["text"] for event in events] == [
        f"{host_name()}: a/s failed (run {run}): exit status 1; {way}" for run in (1, 2, 3)
    ]
    assert [(event["paused"], event["still"]) for event in events] == [(True, False)] * 3
    seen = {"schedule": "a/s", "paused_at": format_instant(START), "note": "run 3 failed (pause_on_failure)"}
    assert await ledger.database.read(partial(paused_by_failure, agents=None, limit=5)) == [seen]
    assert await ledger.database.read(partial(paused_by_failure, agents='["b"]', limit=5)) == []
    await ledger.database.write(lambda tx: tx.execute("UPDATE schedules SET pause_note = 'ours'") and None)
    assert await ledger.database.read(partial(paused_by_failure, agents=None, limit=5)) == []


EVENT = {"id": "7", "event": "failed", "host": "box", "text": "a/s failed <now> & grün"}


def test_each_service_gets_the_event_in_its_own_way() -> None:
    body, headers = request_of("json", EVENT)
    assert json.loads(body) == EVENT
    assert headers == {"Idempotency-Key": "7", "Content-Type": "application/json"}
    assert json.loads(request_of("slack", EVENT)[0]) == {"text": "a/s failed &lt;now&gt; &amp; grün"}
    body, headers = request_of("ntfy", EVENT)
    assert body.decode() == EVENT["text"]
    assert (headers["Title"], headers["Priority"], headers["Tags"]) == ("agentcron on box: failed", "high", "warning")
    assert request_of("ntfy", {**EVENT, "event": "recovered"})[1]["Priority"] == "default"


def test_each_kind_of_event_has_its_urgency() -> None:
    def urgency(kind: str, **details: object) -> tuple[str, str]:
        _, headers = request_of("ntfy", {**EVENT, "event": kind, **details})
        return headers["Priority"], headers["Tags"]

    [kinds] = get_args(Notify.model_fields["on"].annotation)
    assert {kind: urgency(kind) for kind in get_args(kinds)} == {
        **dict.fromkeys(["failed", "interrupted", "missed", "quota"], ("high", "warning")),
        **dict.fromkeys(["denied", "budget", "pool_closed"], ("high", "no_entry")),
        **dict.fromkeys(["recovered", "completed", "pool_opened"], ("default", "white_check_mark")),
        **dict.fromkeys(["cleanup", "retention"], ("low", "wastebasket")),
    }
    assert urgency("cleanup", failed=[{"run_id": 1, "reason": "full"}]) == ("high", "warning")
    assert urgency("cleanup", failed=[]) == ("low", "wastebasket")
    assert urgency("retention", error="full") == ("high", "warning")
