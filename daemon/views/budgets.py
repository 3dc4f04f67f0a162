"""How much of the daily budgets is spent."""

import sqlite3
from collections.abc import Iterator
from datetime import datetime

from typing_extensions import TypedDict

from daemon.rules.budget import Budgets, Limits, Spent, calendar_day
from daemon.store.spending import spent_by


class BudgetView(TypedDict):
    """What was spent today of a daily budget, and its limits; null where there is none."""

    agent: str | None
    """Whose runs count; null: those of all agents."""
    runs: int
    runs_per_day: int | None
    cost_usd: float
    cost_usd_per_day: float | None
    tokens: int
    tokens_per_day: int | None


def budget_views(
    connection: sqlite3.Connection, budgets: Budgets, now: datetime, agents: list[str] | None
) -> Iterator[BudgetView]:
    """Yield the budgets of those agents, and that of the host to whoever may see all."""
    day = calendar_day(now, budgets.zone)
    seen = {owner: limits for owner, limits in budgets.agents.items() if agents is None or owner in agents}
    for agent, limits in seen.items():
        yield _budget(agent, limits, spent_by(connection, agent, *day))
    if agents is None and not budgets.host.are_none:
        yield _budget(None, budgets.host, spent_by(connection, None, *day))


def _budget(agent: str | None, limits: Limits, spent: Spent) -> BudgetView:
    return {
        "agent": agent,
        "runs": spent.runs,
        "runs_per_day": limits.runs,
        "cost_usd": spent.cost_usd,
        "cost_usd_per_day": limits.cost_usd,
        "tokens": spent.tokens,
        "tokens_per_day": limits.tokens,
    }
