"""Data for `schedules list`, `show` and `history`: from the database if it is readable, else from the daemon."""

import sqlite3
from typing import Any

from daemon.cli.client import Client, schedule_path
from daemon.cli.offline import (
    document,
    listing,
    may_read,
    no_schedule,
    reading,
    schedule_named,
    split_address,
    split_past_address,
)
from daemon.config.schema import Config
from daemon.errors import AgentcronError, InvalidError, NotFoundError
from daemon.rules.schedule_fields import DEFINITION
from daemon.schedules.declared import definition_of
from daemon.store.schedules import DUE_KEYS
from daemon.units import utc_now
from daemon.views.history import Chosen, HistoryView, history_view
from daemon.views.schedules import ScheduleList, ScheduleView, deleted_page, schedule_view, schedules_page


def listed(config: Config, agent: str | None, limit: int, *, inputs: bool, deleted: bool) -> dict[str, Any]:
    """Return the schedules of one agent or of all, live or `deleted`; with `inputs` also their inputs and so on."""

    def query(connection: sqlite3.Connection) -> ScheduleList:
        list_of = deleted_page if deleted else schedules_page
        return list_of(connection, config, utc_now(), agent, limit, None, inputs=inputs)

    asked = {name: "true" for name, wanted in (("inputs", inputs), ("deleted", deleted)) if wanted}
    if agent is not None:
        return listing(config, query, f"/agents/{agent}/schedules", "run_schedules", limit, **asked)
    if may_read(config):
        with reading(config) as connection:
            return dict(query(connection))
    return _of_all_agents(config, limit, asked)


def _of_all_agents(config: Config, limit: int, asked: dict[str, str]) -> dict[str, Any]:
    if not config.agents:
        raise InvalidError("the config has errors, so its agents are unknown; name one with --agent")
    client, found, total = Client(config), [], 0
    for agent in config.agents:
        try:
            page = client.pages(f"/agents/{agent}/schedules", "run_schedules", limit, **asked)
        except NotFoundError:  # we may not read it
            continue
        found += page["run_schedules"]
        total += page["total"]
    return {"run_schedules": found[:limit], "total": total, "next_cursor": None}


def shown(config: Config, address: str) -> dict[str, Any]:
    """Return one schedule: the live one of that name, the one deleted last, or the one of `AGENT/NAME@ID`."""

    def query(connection: sqlite3.Connection) -> ScheduleView:
        return schedule_view(connection, schedule_named(connection, address, deleted=True), config, utc_now())

    return _checked(document(config, query, _path(address)), address)


def due_times_of(config: Config, address: str) -> tuple[dict[str, Any], list[str]]:
    """Return what makes a live schedule due, as columns, and the due times that are to be skipped.

    For a schedule in the config file, its file decides; unless database or daemon can be read, nothing is skipped.
    """
    agent, name = split_address(address)
    settings = config.agents.get(agent)
    declared = settings.schedules.get(name) if settings is not None else None
    try:
        view = shown(config, address)
    except AgentcronError:
        if declared is None:
            raise
        return definition_of(declared, config), []
    if declared is not None:
        return definition_of(declared, config), view["skipped_action_times"]
    if view["deleted_at"] is not None:
        raise no_schedule(address)
    fields = (field for field in DEFINITION if field.column in DUE_KEYS)
    return {
        field.column: None if (value := view[field.api]) is None else field.kind.from_api(value) for field in fields
    }, view["skipped_action_times"]


def _checked(view: dict[str, Any], address: str) -> dict[str, Any]:
    """Return a schedule; raise NotFoundError if it has the number of an address, but another agent or name."""
    if (view.get("agent"), view.get("name")) != split_past_address(address)[:2]:
        raise no_schedule(address)
    return view


def _path(address: str, what: str = "") -> str:
    agent, name, number = split_past_address(address)
    if number is None:
        return schedule_path(agent, name, what)
    return f"/schedules/{number}" + (f"/{what}" if what else "")


def history_of(
    config: Config, address: str, limit: int, cursor: str | None, chosen: Chosen
) -> tuple[str, dict[str, Any]]:
    """Return the zone of a schedule, and its chosen fires and revisions.

    The cursor is one of fires: revisions are on the first page alone.
    """
    zone = ""

    def query(connection: sqlite3.Connection) -> HistoryView:
        nonlocal zone
        row = schedule_named(connection, address, deleted=True)
        zone = row.definition["timezone"]
        return history_view(connection, row.id, limit, cursor, chosen)

    span = {"from": chosen.first, "to": chosen.last}
    asked = {**span, "outcome": chosen.outcome, "cursor": cursor}
    view = listing(config, query, _path(address, "fires"), "fires", limit, **asked)
    if "revisions" not in view:
        client = Client(config)
        zone = _checked(client.get(_path(address)), address)["timezone"]
        view["revisions"] = []
        if cursor is None:
            view["revisions"] = client.pages(_path(address, "revisions"), "revisions", limit, **span)["revisions"]
    return zone, {key: view[key] for key in ("fires", "revisions", "next_cursor")}
