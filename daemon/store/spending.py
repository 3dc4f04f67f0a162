"""What runs spent, and how much that is of the budgets that they count towards."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import cached_property

from daemon.rules.budget import Budgets, Spent, calendar_day, exhausted, nearly_spent
from daemon.rules.reported import MOST_COST, MOST_TOKENS
from daemon.store.connection import Transaction
from daemon.units import format_instant

SPENT = (
    f"CASE WHEN count(cost_usd) > 0 THEN total(min(max(cost_usd, 0.0), {MOST_COST})) END AS cost, "
    f"CAST(total(min(max(input_tokens, 0), {MOST_TOKENS})) + total(min(max(output_tokens, 0), {MOST_TOKENS})) "
    "AS INTEGER) AS tokens"
)
"""What runs spent, as columns of a query; unlike `sum`, `total` cannot overflow, whatever old rows contain."""
_EACH_AGENT = (
    "WITH RECURSIVE names(agent) AS (SELECT min(agent) FROM runs UNION ALL "
    "SELECT (SELECT min(agent) FROM runs WHERE agent > names.agent) FROM names WHERE names.agent IS NOT NULL) "
    "SELECT agent FROM names WHERE agent IS NOT NULL"
)
"""The agents that have runs, found with one step in the index for each."""


class Spending:
    """The spending of the day that contains `now`, as one transaction sees it: looked up once for each owner."""

    def __init__(self, tx: Transaction, budgets: Budgets, now: datetime) -> None:
        self._tx = tx
        self._budgets = budgets
        self._now = now
        self._known: dict[str | None, Spent] = {}

    @cached_property
    def day(self) -> tuple[datetime, datetime]:
        """When the day begins and ends; most transactions need not know."""
        return calendar_day(self._now, self._budgets.zone)

    def exhausted(self, agent: str) -> tuple[str | None, str] | None:
        """Return whose budget (None: the host's) keeps an agent from another run, with figures; None if none does."""
        for owner, limits in self._budgets.of(agent):
            figures = exhausted(limits, self._of(owner))
            if figures is not None:
                return owner, figures
        return None

    def nearly_spent(self, agent: str) -> Iterator[tuple[str | None, str]]:
        """Yield whose budgets are nearly spent that runs of an agent count towards (None: the host's), with figures."""
        for owner, limits in self._budgets.of(agent):
            figures = nearly_spent(limits, self._of(owner))
            if figures is not None:
                yield owner, figures

    def add_run(self, agent: str) -> None:
        """Count a run that the transaction has created."""
        for owner in {agent, None} & self._known.keys():
            self._known[owner] = replace(self._known[owner], runs=self._known[owner].runs + 1)

    def forget(self) -> None:
        """Look everything up again, because runs that were counted were rolled back."""
        self._known.clear()

    def _of(self, owner: str | None) -> Spent:
        if owner not in self._known:
            self._known[owner] = spent_by(self._tx, owner, *self.day)
        return self._known[owner]


def spent_by(source: Transaction | sqlite3.Connection, agent: str | None, begin: datetime, end: datetime) -> Spent:
    """Return what the runs of an agent (None: of all) spent that were created in begin <= created_at < end.

    Of all agents, each is looked up by itself: the index begins with the agent.
    """
    agents = "SELECT ?1 AS agent" if agent is not None else _EACH_AGENT
    row = source.execute(
        f"SELECT count(*) AS runs, {SPENT} FROM ({agents}) a CROSS JOIN runs r "
        "ON r.agent = a.agent AND r.created_at >= ?2 AND r.created_at < ?3",
        (agent, format_instant(begin), format_instant(end)),
    ).fetchone()
    return Spent(row["runs"], row["cost"] or 0.0, row["tokens"])
