"""The fires and revisions of a schedule as the API and `--json` show them."""

import json
import sqlite3
from dataclasses import asdict, dataclass
from typing import Any

from typing_extensions import TypedDict

from daemon.model import FireOutcome
from daemon.rules.schedule_fields import BY_COLUMN
from daemon.store.rows import given, row_of, shown
from daemon.units import format_instant, parse_instant
from daemon.views.pages import check_span, number_of, page_of, unknown_cursor


class FireView(TypedDict):
    """The outcome of one due time, or of all due times that a summary covers."""

    scheduled_for: str
    outcome: FireOutcome
    reason: str | None
    run_id: int | None
    decided_at: str
    covers_until: str | None
    covers_count: int | None


class FireList(TypedDict):
    """The ledger of a schedule, newest first."""

    fires: list[FireView]
    total: int
    next_cursor: str | None


class RevisionView(TypedDict):
    """One change of a schedule; `changes` holds the old and the new value of each key."""

    version: int
    at: str
    principal: str
    action: str
    changes: dict[str, list[Any]]
    note: str | None


class RevisionList(TypedDict):
    """The audit trail of a schedule, newest first."""

    revisions: list[RevisionView]
    total: int
    next_cursor: str | None


class HistoryView(TypedDict):
    """The newest fires and revisions of a schedule; pages after the first have no revisions."""

    fires: list[FireView]
    revisions: list[RevisionView]
    next_cursor: str | None


@dataclass(frozen=True)
class Chosen:
    """Which entries of a history are wanted: those from `first` to `last` (UTC text, both included), of one outcome.

    Raise InvalidError if `first` is after `last`.
    """

    first: str | None = None
    last: str | None = None
    outcome: str | None = None

    def __post_init__(self) -> None:
        check_span(self.first, self.last)


ALL = Chosen()


def fires_page(
    connection: sqlite3.Connection,
    schedule_id: int,
    limit: int,
    cursor: str | None,
    most: int | None = None,
    chosen: Chosen = ALL,
) -> FireList:
    """Return a page of a schedule's fires, newest first; the cursor is the last due time of the previous page.

    A summary counts if it covers any chosen due time. A page has about `most` bytes, None: any number.
    """
    try:
        before = "~" if cursor is None else format_instant(parse_instant(cursor))
    except ValueError:
        raise unknown_cursor(cursor or "") from None
    conditions = {
        "first": " AND coalesce(covers_until, scheduled_for) >= :first",
        "last": " AND scheduled_for <= :last",
        "outcome": " AND outcome = :outcome",
    }
    which = f"FROM fires WHERE schedule_id = :schedule{_where(conditions, chosen)}"
    values = {"schedule": schedule_id, **asdict(chosen), "before": before, "limit": limit}
    columns = f"scheduled_for, outcome, {shown('reason')} AS reason, run_id, decided_at, covers_until, covers_count"
    rows = connection.execute(
        f"SELECT {columns} {which} AND scheduled_for < :before ORDER BY scheduled_for DESC LIMIT :limit", values
    )
    page, more = page_of(rows, limit, most)
    found: list[FireView] = [
        {
            "scheduled_for": row["scheduled_for"],
            "outcome": row["outcome"],
            "reason": row["reason"],
            "run_id": row["run_id"],
            "decided_at": row["decided_at"],
            "covers_until": row["covers_until"],
            "covers_count": row["covers_count"],
        }
        for row in page
    ]
    total = connection.execute(f"SELECT count(*) AS n {which}", values).fetchone()["n"]
    return {"fires": found, "total": total, "next_cursor": found[-1]["scheduled_for"] if more else None}


def _where(conditions: dict[str, str], chosen: Chosen) -> str:
    return "".join(text for name, text in conditions.items() if getattr(chosen, name) is not None)


def revisions_page(
    connection: sqlite3.Connection,
    schedule_id: int,
    limit: int,
    cursor: str | None,
    most: int | None = None,
    chosen: Chosen = ALL,
) -> RevisionList:
    """Return a page of a schedule's revisions, newest first; the cursor is the last version of the previous page.

    A page has about `most` bytes, None: any number.
    """
    conditions = {"first": " AND at >= :first", "last": " AND at <= :last"}
    which = f"FROM schedule_revisions WHERE schedule_id = :schedule{_where(conditions, chosen)}"
    values = {"schedule": schedule_id, **asdict(chosen), "before": number_of(cursor), "limit": limit}
    columns = f"version, schedule_id, at, principal, action, {given('changes')} AS changes, {shown('note')} AS note"
    rows = connection.execute(
        f"SELECT {columns} {which} AND version < :before ORDER BY version DESC LIMIT :limit", values
    )
    page, more = page_of(rows, limit, most)
    found = [_revision_view(row) for row in page]
    total = connection.execute(f"SELECT count(*) AS n {which}", values).fetchone()["n"]
    following = str(found[-1]["version"]) if more else None
    return {"revisions": found, "total": total, "next_cursor": following}


def _revision_view(row: sqlite3.Row) -> RevisionView:
    with row_of(f"revision {row['version']} of schedule {row['schedule_id']}"):
        return {
            "version": row["version"],
            "at": row["at"],
            "principal": row["principal"],
            "action": row["action"],
            "changes": _changes_view(json.loads(row["changes"])),
            "note": row["note"],
        }


def _changes_view(changes: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the changes of a revision under the names and in the units of the API."""
    found: dict[str, list[Any]] = {}
    for column, pair in changes.items():
        values = pair if isinstance(pair, list) else (None, pair)
        field = BY_COLUMN.get(column)
        found[field.api if field else column] = [field.shown(value) if field else value for value in values]
    return found


def history_view(
    connection: sqlite3.Connection, schedule_id: int, limit: int, cursor: str | None = None, chosen: Chosen = ALL
) -> HistoryView:
    """Return the newest chosen fires, from the cursor on, and the newest chosen revisions of a schedule.

    With a cursor there are no revisions: they are on the first page.
    """
    fires = fires_page(connection, schedule_id, limit, cursor, None, chosen)
    found = revisions_page(connection, schedule_id, limit, None, None, chosen) if cursor is None else None
    return {
        "fires": fires["fires"],
        "revisions": found["revisions"] if found else [],
        "next_cursor": fires["next_cursor"],
    }
