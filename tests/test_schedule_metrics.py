"""Fires, runs and durations are counted for each schedule, for a bounded number of schedules."""

from dataclasses import replace

from daemon.config.loading import load_config
from daemon.model import FireOutcome, RunStatus
from daemon.schedule_metrics import MOST, ScheduleMetrics, text_of
from daemon.schedules.declared import sync_declared
from daemon.store.changes import Changes, StatusChange
from daemon.store.connection import Transaction
from daemon.store.fires import mark_launched, mark_unstarted
from daemon.store.runs import change_status, get_run
from daemon.store.schedules import first_live
from tests.support.ledger import SECOND, START, Ledger


async def scraped(ledger: Ledger, metrics: ScheduleMetrics, agents: list[str] | None = None) -> dict[str, float]:
    tracked, places = metrics.tracked, metrics.places
    live = await ledger.database.read(lambda c: first_live(c, tracked, places))
    lines = text_of(metrics.keep(tracked, live, {"a", "b"}), agents).decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name.removeprefix("agentcron_schedule_"): float(value) for name, value in samples}


async def test_failures_and_durations_have_names(ledger: Ledger) -> None:
    metrics = ScheduleMetrics()
    ledger.database.on_commit(metrics.committed)
    await ledger.declare('overlap = "allow_all"')
    labels = 'agent="a",schedule="a/s"'
    before = await scraped(ledger, metrics)
    assert before[f'runs_total{{{labels},status="failed"}}'] == 0  # so that the first failure is an increase
    assert not any(name.startswith("run_seconds") for name in before)
    await ledger.decide(START + 30 * SECOND)
    for number, (status, took) in enumerate(((RunStatus.FAILED, 90), (RunStatus.COMPLETED, 5000)), start=1):
        await ledger.move(number, RunStatus.RUNNING)

        def end(tx: Transaction, number: int = number, status: RunStatus = status, took: int = took) -> None:
            run = get_run(tx, number)
            assert run is not None
            change_status(tx, run, status, START + took * SECOND)

        await ledger.database.write(end)
    found = await scraped(ledger, metrics)
    assert found['fires_total{agent="a",outcome="launched",schedule="a/s"}'] == 3
    assert found[f'runs_total{{{labels},status="failed"}}'] == 1
    assert found[f'runs_total{{{labels},status="completed"}}'] == 1
    buckets = {
        bound: found[f'run_seconds_bucket{{agent="a",le="{bound}",schedule="a/s"}}']
        for bound in ("60.0", "300.0", "+Inf")
    }
    assert buckets == {"60.0": 0, "300.0": 1, "+Inf": 2}
    assert (found[f"run_seconds_sum{{{labels}}}"], found[f"run_seconds_count{{{labels}}}"]) == (5090, 2)


async def test_a_buffered_run_that_starts_or_is_given_up_counts_for_its_schedule(ledger: Ledger) -> None:
    metrics = ScheduleMetrics()
    ledger.database.on_commit(metrics.committed)
    await ledger.declare('overlap = "buffer_all"')
    await ledger.decide(START + 30 * SECOND)
    await ledger.database.write(lambda tx: mark_launched(tx, 2))
    await ledger.database.write(lambda tx: mark_unstarted(tx, 3, FireOutcome.SKIPPED_MISSED, "x"))
    found = await scraped(ledger, metrics)
    assert found['fires_total{agent="a",outcome="launched",schedule="a/s"}'] == 2
    assert found['fires_total{agent="a",outcome="skipped_missed",schedule="a/s"}'] == 1


async def test_what_is_beyond_the_bound_is_summed_up_and_a_removed_schedule_is_forgotten(ledger: Ledger) -> None:
    text = "[agents.a]\ncommand = ['true']\n[agents.b]\ncommand = ['true']\n"
    names = "".join(f"[agents.a.schedules.s{number}]\nevery = '1h'\n" for number in range(MOST + 20))

    async def declare(content: str) -> None:
        (ledger.folder / "config.toml").write_text(content)
        config = load_config(ledger.folder / "config.toml", {})
        await ledger.database.write(lambda tx: sync_declared(tx, config, START))

    def failed(schedule_id: int) -> Changes:
        change = StatusChange(1, "a", "a/x", RunStatus.RUNNING, RunStatus.FAILED, schedule_id=schedule_id)
        return Changes(statuses=[change])

    await declare(text + names + "[agents.b.schedules.last]\nevery = '1h'\n")
    metrics = ScheduleMetrics()
    for number in range(1, MOST + 21):
        metrics.committed(failed(number))
    found = await scraped(ledger, metrics)
    assert len(metrics.tracked) == MOST
    assert found['runs_total{agent="(other)",schedule="(other)",status="failed"}'] == 20
    assert sum(value for name, value in found.items() if 'status="failed"' in name) == MOST + 20
    of_b = await scraped(ledger, metrics, ["b"])
    assert of_b == {}
    await declare(text + "[agents.a.schedules.s3]\nevery = '1h'\n[agents.b.schedules.last]\nevery = '1h'\n")
    found = await scraped(ledger, metrics)
    assert {name.partition('schedule="')[2].partition('"')[0] for name in found} == {"a/s3", "b/last", "(other)"}
    assert found['runs_total{agent="a",schedule="a/s3",status="failed"}'] == 1
    assert {name.split('"')[1] for name in await scraped(ledger, metrics, ["b"])} == {"b"}


async def test_schedules_that_start_nothing_give_their_places_to_others(ledger: Ledger) -> None:
    names = "".join(f"[agents.a.schedules.s{number}]\nevery = '1h'\n" for number in range(MOST))
    (ledger.folder / "config.toml").write_text(f"[agents.a]\ncommand = ['true']\n{names}")
    config = load_config(ledger.folder / "config.toml", {})
    await ledger.database.write(lambda tx: sync_declared(tx, config, START))
    await ledger.database.write(lambda tx: tx.execute("UPDATE schedules SET source = 'created'"))
    metrics = ScheduleMetrics()
    metrics.committed(started(1))
    assert len(await scraped(ledger, metrics)) >= MOST  # each has a place now
    (ledger.folder / "config.toml").write_text(
        "[agents.a]\ncommand = ['true']\n[agents.a.schedules.late]\nevery = '1h'"
    )
    late = load_config(ledger.folder / "config.toml", {})
    await ledger.database.write(lambda tx: sync_declared(tx, late, START))
    metrics.committed(started(MOST + 1))
    found = await scraped(ledger, metrics)
    for name in ("s0", "late"):
        assert found[f'runs_total{{agent="a",schedule="a/{name}",status="failed"}}'] == 1
    assert len(metrics.tracked) == MOST
    first = await ledger.database.read(lambda c: first_live(c, [], 1))
    assert [*first.values()] == [("a", "late", True)]


async def test_schedules_of_the_config_and_agents_take_the_places_of_others_which_also_deleted_ones_give_back(
    ledger: Ledger,
) -> None:
    agent = "[agents.a]\ncommand = ['true']\n"
    names = "".join(f"[agents.a.schedules.s{number}]\nevery = '1h'\n" for number in range(MOST))

    async def declare(content: str) -> None:
        (ledger.folder / "config.toml").write_text(content)
        config = load_config(ledger.folder / "config.toml", {})
        await ledger.database.write(lambda tx: sync_declared(tx, config, START))

    await declare(agent + names)
    await ledger.database.write(lambda tx: tx.execute("UPDATE schedules SET source = 'created'"))
    await declare(agent + "[agents.a.schedules.ours]\nevery = '1h'\n")
    metrics = ScheduleMetrics()
    for number in range(1, MOST + 1):
        metrics.committed(started(number))
    assert 'agent="a",schedule="a/ours"' in "".join(await scraped(ledger, metrics))
    metrics.committed(started(MOST + 1))
    metrics.committed(Changes(statuses=[StatusChange(1, "a", None, RunStatus.RUNNING, RunStatus.FAILED)]))
    metrics.committed(started(MOST))  # which has lost its place
    found = await scraped(ledger, metrics)
    assert found['runs_total{agent="a",schedule="a/ours",status="failed"}'] == 1
    assert found['runs_total{agent="a",schedule="",status="failed"}'] == 1
    assert found['runs_total{agent="(other)",schedule="(other)",status="failed"}'] == 1
    assert len(metrics.tracked) == MOST - 1
    delete = "UPDATE schedules SET deleted_at = updated_at WHERE source = 'created' AND id > 1"
    await ledger.database.write(lambda tx: tx.execute(delete).fetchall())
    await scraped(ledger, metrics)
    assert metrics.tracked == [1, MOST + 1]


def started(schedule_id: int) -> Changes:
    """Return the start and the failure of a run."""
    change = StatusChange(1, "a", "a/x", RunStatus.RUNNING, RunStatus.FAILED, schedule_id=schedule_id)
    return Changes(statuses=[replace(change, before=RunStatus.PENDING, after=RunStatus.RUNNING), change])


def test_runs_without_a_schedule_count_for_their_agent() -> None:
    metrics = ScheduleMetrics()
    metrics.committed(Changes(statuses=[StatusChange(1, "a", None, RunStatus.PENDING, RunStatus.RUNNING)]))
    failed = 'runs_total{agent="a",schedule="",status="failed"}'
    assert f"{failed} 0.0" in text_of(metrics.keep([], {}, {"a"}), ["a"]).decode()
    metrics.committed(Changes(statuses=[StatusChange(1, "a", None, RunStatus.RUNNING, RunStatus.FAILED)]))
    assert f"{failed} 1.0" in text_of(metrics.keep([], {}, {"a"}), ["a"]).decode()
    assert 'agent="a"' not in text_of(metrics.keep([], {}, {"b"}), ["a"]).decode()
