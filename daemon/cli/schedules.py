"""`agentcron schedules ...`: show schedules, their due times and their history."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli import schedule_changes
from daemon.cli.help import CommandGroup
from daemon.cli.output import local_time, print_facts, print_json, print_table
from daemon.cli.parameters import AgentName, Cursor, From, Json, Limit, ScheduleAddress, To, instant_text
from daemon.rules.schedule_fields import FIELDS

if TYPE_CHECKING:
    from datetime import datetime

app = CommandGroup(help="Show, create, change and trigger schedules.", epilog="Example: agentcron schedules list")
schedule_changes.register(app)
_WITH_A_LINE = {
    "description",
    "cron_expression",
    "interval_seconds",
    "offset_seconds",
    "timezone",
    "start_at",
    "end_at",
    "overlap_policy",
    "catchup",
    "catchup_window_seconds",
    "paused",
}
"""The fields of a schedule that `show` words itself; whatever else is set gets a line as it is."""


@app.command("list", epilog="Example: agentcron schedules list --agent triage")
def list_command(
    context: typer.Context,
    agent: AgentName = None,
    limit: Limit = 100,
    inputs: Annotated[bool, typer.Option("--inputs", help="With --json: also inputs, params and metadata.")] = False,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="List deleted schedules as AGENT/NAME@ID, which show and history accept.")
    ] = False,
    json: Json = False,
) -> None:
    """List schedules with their state and next due time."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.schedule_views import listed

    view = listed(find_daemon(context.obj), agent, limit, inputs=inputs, deleted=deleted)
    if json:
        print_json(view)
        return
    if deleted:
        _print_deleted(view)
        return
    print_table(
        ("schedule", "cadence", "timezone", "state", "next due", "last started", "missed"),
        (
            (
                f"{view['agent']}/{view['name']}",
                _cadence(view),
                view["timezone"],
                view["state"],
                local_time(next(iter(view["next_action_times"] or ()), None), view["timezone"]),
                local_time(view["last_action_time"], view["timezone"]),
                view["missed_count"],
            )
            for view in view["run_schedules"]
        ),
        empty=f"No schedules of agent {agent}."
        if agent
        else "No schedules yet, or none that you may see; add one to the config file.",
    )


def _print_deleted(view: dict[str, Any]) -> None:
    print_table(
        ("schedule", "cadence", "timezone", "deleted", "last started", "missed"),
        (
            (
                f"{view['agent']}/{view['name']}@{view['id']}",
                _cadence(view),
                view["timezone"],
                local_time(view["deleted_at"], view["timezone"]),
                local_time(view["last_action_time"], view["timezone"]),
                view["missed_count"],
            )
            for view in view["run_schedules"]
        ),
        empty="No deleted schedules.",
    )


@app.command(epilog="Example: agentcron schedules show triage/nightly")
def show(context: typer.Context, schedule: ScheduleAddress, json: Json = False) -> None:
    """Show a schedule: definition, state and next due times."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.schedule_views import shown

    view = shown(find_daemon(context.obj), schedule)
    if json:
        print_json(view)
        return
    print_schedule(view)


def print_schedule(view: dict[str, Any]) -> None:
    """Print one schedule for people."""
    from daemon.text import plural

    zone = view["timezone"]
    print_facts(
        (
            ("schedule", f"{view['agent']}/{view['name']}"),
            ("description", view["description"]),
            ("cadence", _cadence(view)),
            ("timezone", zone),
            ("state", view["state"]),
            ("because", view.get("state_reason")),  # not sent by daemons of earlier versions
            ("note", view["pause_note"]),
            ("from", view["start_at"] and local_time(view["start_at"], zone)),
            ("until", view["end_at"] and local_time(view["end_at"], zone)),
            ("overlap", view["overlap_policy"]),
            ("catch-up", f"{view['catchup']}, within {_duration(view['catchup_window_seconds'])}"),
            ("input", view["initial_input"]["content"]),
            *_other_fields(view),
            (
                "started",
                f"{plural(view['num_actions_taken'], 'time')}, last {local_time(view['last_action_time'], zone)}",
            ),
            ("missed", view["missed_count"]),
            ("next due", [local_time(time, zone) for time in view["next_action_times"] or ()]),
            ("skipped", [local_time(time, zone) for time in view["skipped_action_times"]]),
            ("source", f"{view['source']} by {view['creator_principal']}, version {view['version']}"),
        )
    )


def _other_fields(view: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields that are set and have no line of their own."""
    from json import dumps

    for field in FIELDS:
        value = view.get(field.api)
        if value and field.api not in _WITH_A_LINE:
            if field.kind.api_suffix == "_seconds":
                yield field.key.replace("_", " "), _duration(value)
            else:
                yield field.api.replace("_", " "), value if isinstance(value, str) else dumps(value)


def _cadence(view: dict[str, Any]) -> str:
    if view["cron_expression"] is not None:
        return str(view["cron_expression"])
    offset = view["offset_seconds"]
    return f"every {_duration(view['interval_seconds'])}" + (f" + {_duration(offset)}" if offset else "")


def _duration(seconds: int) -> str:
    from datetime import timedelta

    from daemon.units import format_duration

    return format_duration(timedelta(seconds=seconds))


@app.command("next", epilog="Example: agentcron schedules next triage/nightly -n 3 --from 2026-03-01T00:00:00Z")
def next_command(
    context: typer.Context,
    schedule: ScheduleAddress,
    count: Annotated[int, typer.Option("-n", min=1, max=10_000, metavar="N", help="Show this many.")] = 5,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Show due times after this one (RFC 3339).")
    ] = None,
    json: Json = False,
) -> None:
    """Show the next due times of a schedule, without those that are to be skipped.

    For a schedule in the config file, this needs neither daemon nor database; they know what is to be skipped.
    """
    from daemon.cli.locate import find_daemon
    from daemon.cli.schedule_views import due_times_of
    from daemon.store.rows import row_of
    from daemon.store.schedules import cadence_from
    from daemon.units import format_instant, utc_now
    from daemon.views.schedules import upcoming

    config = find_daemon(context.obj)
    after = _instant(start) if start else utc_now()
    definition, skips = due_times_of(config, schedule)
    with row_of(f"schedule {schedule}"):
        times = upcoming(cadence_from(definition), after, count, skips)
    if json:
        print_json({"next_action_times": [format_instant(time) for time in times]})
        return
    zone = definition["timezone"]
    rows = ((local_time(time, zone), format_instant(time)) for time in times)
    print_table(("due", "UTC"), rows, empty="This schedule has no further due times.")


def _instant(text: str) -> "datetime":
    from daemon.units import parse_instant

    try:
        return parse_instant(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is {error}", param_hint="--from") from None


@app.command(epilog="Example: agentcron schedules history triage/nightly --from 2026-11-24T00:00:00Z")
def history(
    context: typer.Context,
    schedule: ScheduleAddress,
    start: From = None,
    end: To = None,
    outcome: Annotated[
        str | None, typer.Option("--outcome", metavar="OUTCOME", help="Show only due times with this outcome.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """Show the outcome of each due time, and all changes; with --cursor, only due times.

    Write AGENT/NAME@ID for a deleted schedule; `agentcron schedules list --deleted` shows them.
    """
    from daemon.cli.locate import find_daemon
    from daemon.cli.schedule_views import history_of
    from daemon.model import FireOutcome
    from daemon.views.history import ALL, Chosen

    if outcome is not None and outcome not in set(FireOutcome):
        choices = ", ".join(FireOutcome)
        raise typer.BadParameter(f"{outcome!r} is not an outcome; choose from {choices}", param_hint="--outcome")
    chosen = Chosen(instant_text("--from", start), instant_text("--to", end), outcome)
    zone, view = history_of(find_daemon(context.obj), schedule, limit, cursor, chosen)
    if json:
        print_json(view)
        return
    print_table(
        ("due", "outcome", "run", "reason"),
        ((_due(fire, zone), fire["outcome"], fire["run_id"], fire["reason"]) for fire in view["fires"]),
        empty="No such due times." if chosen != ALL or cursor else "No due times yet.",
    )
    if cursor is not None:
        return
    print()
    print_table(
        ("version", "at", "by", "change", "what", "note"),
        (
            (
                entry["version"],
                local_time(entry["at"], zone),
                entry["principal"],
                entry["action"],
                _changed(entry, zone),
                entry["note"],
            )
            for entry in view["revisions"]
        ),
        empty="No such changes." if chosen != ALL else "No changes.",
    )


def _changed(entry: dict[str, Any], zone: str) -> str | None:
    """Return which keys of the file a revision changed; of a skip, or the end of one, the due time."""
    keys = {field.api: field.key for field in FIELDS}
    changes = {} if entry["action"] == "create" else entry["changes"]
    skipped = changes.get("skipped_action_times") if entry["action"] in {"skip", "unskip"} else None
    if skipped:
        return local_time(skipped[0] or skipped[1], zone)
    return ", ".join(keys.get(name, name) for name in changes) or None


def _due(fire: dict[str, str], zone: str) -> str:
    if fire["covers_until"] is None:
        return local_time(fire["scheduled_for"], zone)
    last = local_time(fire["covers_until"], zone)
    return f"{local_time(fire['scheduled_for'], zone)} .. {last} ({fire['covers_count']})"
