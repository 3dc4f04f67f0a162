"""Data for `schedules list`, `show` and `history`: from the database if it is readable, else from the daemon."""

import sqlite3
from typing import Any

from daemon.cli.client import Client, schedule_path
from daemon.cli.offline import document, listing, may_read, reading, schedule_named, split_address
from daemon.config.schema import Config
from daemon.errors import InvalidError, NotFoundError
from daemon.units import utc_now
from daemon.views.history import HistoryView, history_view
from daemon.views.schedules import ScheduleList, ScheduleView, schedule_view, schedules_page


def listed(config: Config, agent: str | None, limit: int, *, inputs: bool) -> dict[str, Any]:
    """Return the schedules of one agent or of all; with `inputs` also their inputs, parameters and metadata."""

    def query(connection: sqlite3.Connection) -> ScheduleList:
        return schedules_page(connection, config, utc_now(), agent, limit, None, inputs=inputs)

    if agent is not None:
        path = f"/agents/{agent}/schedules"
        return listing(config, query, path, "run_schedules", limit, **_asked(inputs=inputs))
    if may_read(config):
        with reading(config) as connection:
            return dict(query(connection))
    return _of_all_agents(config, limit, inputs=inputs)


def _asked(*, inputs: bool) -> dict[str, str]:
    return {"inputs": "true"} if inputs else {}  # a daemon of an earlier version knows no such key


def _of_all_agents(config: Config, limit: int, *, inputs: bool) -> dict[str, Any]:
    if not config.agents:
        raise InvalidError("the config has errors, so its agents are unknown; name one with --agent")
    client, found, total = Client(config), [], 0
    for agent in config.agents:
        try:
            page = client.pages(f"/agents/{agent}/schedules", "run_schedules", limit, **_asked(inputs=inputs))
        except NotFoundError:  # we may not read it
            continue
        found += page["run_schedules"]
        total += page["total"]
    return {"run_schedules": found[:limit], "total": total, "next_cursor": None}


def shown(config: Config, address: str) -> dict[str, Any]:
    """Return one schedule, or the one deleted last of that name."""

    def query(connection: sqlite3.Connection) -> ScheduleView:
        return schedule_view(connection, schedule_named(connection, address, deleted=True), config, utc_now())

    return document(config, query, schedule_path(*split_address(address)))


def history_of(config: Config, address: str, limit: int) -> tuple[str, dict[str, Any]]:
    """Return the zone of a schedule, and its fires and revisions."""
    zone = ""

    def query(connection: sqlite3.Connection) -> HistoryView:
        nonlocal zone
        row = schedule_named(connection, address, deleted=True)
        zone = row.definition["timezone"]
        return history_view(connection, row.id, limit)

    place = split_address(address)
    view = listing(config, query, schedule_path(*place, "fires"), "fires", limit)
    if "revisions" not in view:
        client = Client(config)
        zone = client.get(schedule_path(*place))["timezone"]
        view = {"fires": view["fires"], **client.pages(schedule_path(*place, "revisions"), "revisions", limit)}
    return zone, {"fires": view["fires"], "revisions": view["revisions"]}
