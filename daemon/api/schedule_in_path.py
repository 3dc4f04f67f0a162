"""The schedule that the path of a request names, by agent and name, or by its number, which stays after a deletion."""

import sqlite3
from collections.abc import Callable

from daemon.api.routing import ApiCall
from daemon.errors import NotFoundError
from daemon.store.schedules import ScheduleRow, get_schedule, get_schedule_by_id

SCHEDULES = "/agents/{agent}/schedules"
SCHEDULE = f"{SCHEDULES}/{{name}}"
SCHEDULE_BY_ID = "/schedules/{schedule_id}"

FindSchedule = Callable[[sqlite3.Connection], ScheduleRow]
"""Reads the schedule that a request is about; raises NotFoundError."""


async def schedule_by_name(call: ApiCall) -> FindSchedule:
    """Return how to read the live schedule in the path; raise NotFoundError for one that is not visible."""
    agent, name = call.agent, call.schedule
    await call.require("schedule.read", agent, f"schedule {agent}/{name}")
    return lambda connection: schedule_of(connection, agent, name)


async def schedule_by_id(call: ApiCall) -> FindSchedule:
    """Return how to read the schedule with the number in the path, deleted or not; raise NotFoundError."""
    number = call.schedule_id
    row = await call.context.home.database.read(lambda connection: get_schedule_by_id(connection, number))
    if row is None:
        raise NotFoundError(f"no schedule {number}")
    await call.require("schedule.read", row.agent, f"schedule {number}")

    def find(connection: sqlite3.Connection) -> ScheduleRow:
        return get_schedule_by_id(connection, number) or row

    return find


def schedule_of(connection: sqlite3.Connection, agent: str, name: str) -> ScheduleRow:
    """Return the live schedule of a name; raise NotFoundError."""
    row = get_schedule(connection, agent, name)
    if row is None:
        raise NotFoundError(f"no schedule {agent}/{name}")
    return row
