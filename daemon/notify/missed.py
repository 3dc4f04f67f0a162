"""One notification for all due times that one gap made schedules miss, however many schedules and transactions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from daemon.text import plural
from daemon.units import format_instant

_MOST_LISTED = 50  # schedules that an event lists
_MOST_NAMED = 10  # schedules that its text names


@dataclass(frozen=True)
class Missed:
    """Due times of one schedule that were missed and are not started."""

    agent: str
    schedule: str
    """As `AGENT/NAME`."""
    count: int
    first: datetime
    reason: str


@dataclass(frozen=True)
class Part:
    """What earlier transactions have put into an event that is not sent yet; None is what differs."""

    agent: str | None
    schedule: str | None
    reason: str | None
    count: int
    first: str
    total: int
    listed: dict[str, dict[str, Any]]


def earlier_part(event: Mapping[str, Any]) -> Part | None:
    """Return what an event about missed due times says, None for any other event, and for a damaged one."""
    if event.get("event") != "missed":
        return None
    try:
        listed = {str(one["schedule"]): {**one, "count": int(one["count"])} for one in event["schedules"]}
        count, first, total = int(event["count"]), str(event["scheduled_for"]), int(event["schedules_total"])
        agent, schedule, reason = (event[key] and str(event[key]) for key in ("agent", "schedule", "reason"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return Part(agent, schedule, reason, count, first, total, listed)


def summed_up(earlier: Part | None, missed: Sequence[Missed]) -> dict[str, Any]:
    """Return the details of an event about missed due times, including an earlier part of it.

    It lists at most 50 schedules and counts all: `schedules_total`, and `count` due times. `agent`, `schedule` and
    `reason` are those of all, None if they differ. Beyond 50, a schedule may be counted once for each transaction.
    """
    head = missed[0]
    before = earlier or Part(head.agent, head.schedule, head.reason, 0, format_instant(head.first), 0, {})
    listed, total = dict(before.listed), before.total
    for one in missed:
        known = listed.get(one.schedule)
        total += known is None
        if known is not None:
            listed[one.schedule] = {**known, "count": known["count"] + one.count}
        elif len(listed) < _MOST_LISTED:
            first = format_instant(one.first)
            listed[one.schedule] = {"schedule": one.schedule, "count": one.count, "scheduled_for": first}
    return {
        "agent": _common(before.agent, (one.agent for one in missed)),
        "schedule": _common(before.schedule, (one.schedule for one in missed)),
        "count": before.count + sum(one.count for one in missed),
        "scheduled_for": min(before.first, *(format_instant(one.first) for one in missed)),
        "reason": _common(before.reason, (one.reason for one in missed)),
        "schedules": list(listed.values()),
        "schedules_total": total,
    }


def _common(earlier: str | None, values: Iterable[str]) -> str | None:
    return earlier if all(value == earlier for value in values) else None


def text_of(event: dict[str, Any]) -> str:
    """Return the sentence for people about an event of missed due times."""
    missed = f"missed {plural(event['count'], 'due time')} since {event['scheduled_for']}"
    reason = event["reason"] or "the reasons differ, see `agentcron schedules history`"
    if event["schedule"] is not None:
        return f"{event['schedule']} {missed}: {reason}"
    named = [f"{one['schedule']} ({one['count']})" for one in event["schedules"][:_MOST_NAMED]]
    rest = event["schedules_total"] - len(named)
    more = f" and {rest} more" if rest else ""
    return f"{plural(event['schedules_total'], 'schedule')} {missed}: {', '.join(named)}{more}; {reason}"
