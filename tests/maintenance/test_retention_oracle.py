"""Random histories and policies: what is kept equals what a plain reading of the rules keeps."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.config.effective import retention_policy
from daemon.maintenance.purge import Purge
from tests.support.retention_history import ACTIVE, AGENTS, NOW, History

STATUSES = ("completed", "failed", "cancelled", "interrupted", "pending", "running", "suspended")


@dataclass
class Past:
    """A run of the oracle's."""

    agent: str
    schedule: int | None
    status: str
    days: float
    previous: int | None
    """Index of the earlier attempt."""
    workspace: str | None


@dataclass
class Settings:
    """Days and keep_last in general and for the agent `b`."""

    days: int | None
    keep_last: int
    own_days: int | None
    own_keep_last: int | None

    def text(self) -> tuple[str, str]:
        general = {"days": self.days, "keep_last": self.keep_last}
        own = {"days": self.own_days, "keep_last": self.own_keep_last}
        lines = [f"{name} = {value}" for name, value in general.items() if value is not None]
        own_lines = [f"{name} = {value}" for name, value in own.items() if value is not None]
        return "\n".join(["[retention]", *lines, ""]), "\n".join([AGENTS + "[agents.b.retention]", *own_lines, ""])

    def of(self, agent: str) -> tuple[int | None, int]:
        if agent != "b":
            return self.days, self.keep_last
        days = self.days if self.own_days is None else self.own_days
        return days, self.keep_last if self.own_keep_last is None else self.own_keep_last


@st.composite
def histories(draw: st.DrawFn) -> list[Past]:
    found: list[Past] = []
    for number in range(draw(st.integers(0, 14))):
        earlier = draw(st.one_of(st.none(), st.integers(0, number - 1))) if number else None
        schedule = draw(st.sampled_from([1, 2, 3, None])) if earlier is None else found[earlier].schedule
        found.append(
            Past(
                agent={1: "a", 2: "b", 3: "gone", None: "a"}[schedule],
                schedule=schedule,
                status=draw(st.sampled_from(STATUSES)),
                days=draw(st.sampled_from([0.5, 6.9, 7.0, 7.1, 29.9, 30.0, 30.1, 100.0])),
                previous=earlier,
                workspace=draw(st.sampled_from([None, None, None, "present", "kept", "removed"])),
            )
        )
    return found


def kept(history: list[Past], policy: Settings) -> set[int]:
    """Return the indices of the runs that stay."""
    spared: set[int] = set()
    ended = defaultdict(list)
    for number, run in enumerate(history):
        if run.status not in ACTIVE and run.schedule is not None:
            ended[run.schedule].append(number)
    for numbers in ended.values():
        count = policy.of(history[numbers[0]].agent)[1]
        spared |= set(numbers[-count:]) if count else set()
    chains: dict[int, list[int]] = defaultdict(list)
    for number in range(len(history)):
        root = number
        while (earlier := history[root].previous) is not None:
            root = earlier
        chains[root].append(number)
    stays = set()
    for chain in chains.values():
        for number in chain:
            run, days = history[number], policy.of(history[number].agent)[0]
            has_workspace = run.workspace in {"present", "kept"}
            if run.status in ACTIVE or days is None or run.days <= days or number in spared or has_workspace:
                stays |= set(chain)
    return stays


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    past=histories(),
    policy=st.builds(
        Settings,
        st.sampled_from([None, 7, 30]),
        st.integers(0, 3),
        st.sampled_from([None, 7, 30]),
        st.sampled_from([None, 0, 1, 3]),
    ),
)
async def test_the_kept_runs_are_those_that_the_rules_keep(
    history: History, past: list[Past], policy: Settings
) -> None:
    await start_again(history)
    numbers: list[int] = []
    for run in past:
        previous = None if run.previous is None else numbers[run.previous]
        facts: dict[str, Any] = {"agent": run.agent, "schedule": run.schedule, "previous": previous}
        numbers.append(await history.run(run.status, run.days, **facts))
        if run.workspace is not None:
            state = "removed" if run.workspace == "removed" else "present"
            await history.workspace(numbers[-1], state, kept=run.workspace == "kept")
    config = history.config(*policy.text())
    async with history.database.aside() as aside:
        terms = retention_policy(config, NOW)
        if terms.latest is not None:
            purge = Purge(history.database, aside, terms, terms.latest)
            async for some in purge.candidates():
                await purge.delete_runs(some)
    assert await history.runs() == sorted(numbers[index] for index in kept(past, policy))
    assert await history.query("PRAGMA foreign_key_check") == []


async def start_again(history: History) -> None:
    def empty(tx: Any) -> None:  # noqa: ANN401 - a transaction
        for table in ("workspaces", "events", "runs", "schedules"):
            tx.execute(f"DELETE FROM {table}")

    await history.database.write_without_keys(empty)
    for number, agent in ((1, "a"), (2, "b"), (3, "gone")):
        await history.schedule(number, agent)
