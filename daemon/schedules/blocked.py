"""Schedules that can start nothing: their agent is not in the config, or their creator lost the right to start it.

This is found out at the start, at each reload and when a due time is skipped for it. It is kept with the other known
problems, so that views can show it without looking up rights, and it is reported once for each change.
"""

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from daemon.access import Claim
from daemon.fires.blocked import DENIED, NO_AGENT, State, blocked_notice, reason_of
from daemon.model import CONFIG_PRINCIPAL
from daemon.notify.outbox import Outbox
from daemon.store.connection import Transaction
from daemon.store.notifications import blocked_states


@dataclass(frozen=True)
class Blocked:
    """A live schedule that can start nothing."""

    id: int
    agent: str
    address: str
    state: State
    reason: str

    def __str__(self) -> str:
        """Return a sentence for people."""
        return f"{self.address} cannot start anything: {self.reason}"


def claims_of(source: Transaction | sqlite3.Connection) -> set[Claim]:
    """Return the creators and agents of the live schedules whose rights must be looked up."""
    rows = source.execute(
        "SELECT DISTINCT creator, agent FROM schedules WHERE deleted_at IS NULL AND creator <> ?", (CONFIG_PRINCIPAL,)
    )
    return {(row["creator"], row["agent"]) for row in rows}


def find_blocked(
    source: Transaction | sqlite3.Connection, agents: Collection[str], rights: Mapping[Claim, bool]
) -> list[Blocked]:
    """Return the live schedules that can start nothing; rights that are not in `rights` are assumed."""
    rows = source.execute(
        "SELECT id, agent, name, creator FROM schedules WHERE deleted_at IS NULL AND source = 'created' "
        "ORDER BY agent, name"
    )
    found = []
    for row in rows:
        claim = row["creator"], row["agent"]
        if row["agent"] in agents and rights.get(claim, True):
            continue
        state = DENIED if row["agent"] in agents else NO_AGENT
        address = f"{row['agent']}/{row['name']}"
        found.append(Blocked(row["id"], row["agent"], address, state, reason_of(state, *claim)))
    return found


def record_blocked(
    tx: Transaction, agents: Collection[str], rights: Mapping[Claim, bool], now: datetime, outbox: Outbox
) -> list[Blocked]:
    """Note and report which schedules can start nothing; return them.

    What is known about a creator whose rights are not in `rights` stays as it is.
    """
    found = {one.id: one for one in find_blocked(tx, agents, rights)}
    for schedule_id, agent, creator, state in blocked_states(tx):
        is_unknown = creator != CONFIG_PRINCIPAL and agent in agents and (creator, agent) not in rights
        if schedule_id not in found and not (is_unknown and state == DENIED):
            outbox.add(tx, [blocked_notice(schedule_id, agent, "", None, "")], now)
    for one in found.values():
        outbox.add(tx, [blocked_notice(one.id, one.agent, one.address, one.state, one.reason)], now)
    return list(found.values())
