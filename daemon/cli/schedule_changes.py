"""`agentcron schedules create|update|pause|...`: what changes a schedule, asked of the running daemon."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.output import local_time, tell
from daemon.cli.parameters import Json

if TYPE_CHECKING:
    from daemon.cli.client import Client

Address = Annotated[str, typer.Argument(metavar="AGENT/NAME", help="The schedule.")]
NoteText = Annotated[str | None, typer.Option("--note", help="Why; kept in the history.")]
Cron = Annotated[str | None, typer.Option("--cron", metavar="EXPRESSION", help="When it is due, as in crontab(5).")]
Every = Annotated[str | None, typer.Option("--every", metavar="DURATION", help="Due that often, counted from 1970.")]
Offset = Annotated[str | None, typer.Option("--offset", metavar="DURATION", help="Shifts the phase of --every.")]
ZoneName = Annotated[str | None, typer.Option("--timezone", metavar="ZONE", help="IANA zone of --cron.")]
StartAt = Annotated[str | None, typer.Option("--start-at", metavar="TIME", help="Not due before, RFC 3339.")]
EndAt = Annotated[str | None, typer.Option("--end-at", metavar="TIME", help="Not due after, RFC 3339.")]
Jitter = Annotated[str | None, typer.Option("--jitter", metavar="DURATION", help="Spreads the starts at most so far.")]
OverlapName = Annotated[
    str | None,
    typer.Option(
        "--overlap",
        metavar="POLICY",
        help="skip, buffer_one, buffer_all, cancel_other, terminate_other or allow_all.",
    ),
]
CatchupName = Annotated[str | None, typer.Option("--catchup", metavar="POLICY", help="latest, all or none.")]
Window = Annotated[str | None, typer.Option("--catchup-window", metavar="DURATION", help="No catch-up beyond it.")]
PauseOnFailure = Annotated[
    bool | None, typer.Option("--pause-on-failure/--no-pause-on-failure", help="After a failure.")
]
Paused = Annotated[bool | None, typer.Option("--paused/--not-paused", help="Whether it is paused.")]
Description = Annotated[str | None, typer.Option("--description", help="For people.")]
InputText = Annotated[str | None, typer.Option("--input", metavar="TEXT", help="What the agent is given.")]
Params = Annotated[str | None, typer.Option("--params", metavar="JSON", help="task_params, a JSON object.")]
Metadata = Annotated[str | None, typer.Option("--metadata", metavar="JSON", help="task_metadata, a JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the commands that change schedules."""
    for command, example in (
        (create, "create triage/weekly --cron '0 7 * * 1' --timezone Europe/London --input 'Sum up the week.'"),
        (update, "update triage/weekly --every 2h"),
        (pause, "pause triage/nightly --note 'the repository moves'"),
        (resume, "resume triage/nightly"),
        (trigger, "trigger triage/nightly --wait"),
        (skip, "skip triage/nightly 2026-12-24T02:00:00Z"),
        (unskip, "unskip triage/nightly 2026-12-24T02:00:00Z"),
        (backfill, "backfill triage/nightly --from 2026-11-01T00:00:00Z --to 2026-11-02T00:00:00Z"),
        (delete, "delete triage/weekly"),
    ):
        app.command(epilog=f"Example: agentcron schedules {example}")(command)


def create(
    context: typer.Context,
    schedule: Address,
    cron: Cron = None,
    every: Every = None,
    offset: Offset = None,
    timezone: ZoneName = None,
    start_at: StartAt = None,
    end_at: EndAt = None,
    jitter: Jitter = None,
    overlap: OverlapName = None,
    catchup: CatchupName = None,
    catchup_window: Window = None,
    pause_on_failure: PauseOnFailure = None,
    paused: Paused = None,
    description: Description = None,
    content: InputText = None,
    params: Params = None,
    metadata: Metadata = None,
    json: Json = False,
) -> None:
    """Create a schedule; it lives in the database, not in the config file."""
    from daemon.cli.offline import split_address

    agent, name = split_address(schedule)
    body = _definition(locals())
    view = _client(context).ask("POST", f"/agents/{agent}/schedules", {"name": name, **body})
    tell(view, f"{schedule} was created.", json=json)


def update(
    context: typer.Context,
    schedule: Address,
    cron: Cron = None,
    every: Every = None,
    offset: Offset = None,
    timezone: ZoneName = None,
    start_at: StartAt = None,
    end_at: EndAt = None,
    jitter: Jitter = None,
    overlap: OverlapName = None,
    catchup: CatchupName = None,
    catchup_window: Window = None,
    pause_on_failure: PauseOnFailure = None,
    paused: Paused = None,
    description: Description = None,
    content: InputText = None,
    params: Params = None,
    metadata: Metadata = None,
    clear: Annotated[
        list[str] | None,
        typer.Option("--clear", metavar="KEY", help="Empty it: description, start_at, end_at, params or metadata."),
    ] = None,
    json: Json = False,
) -> None:
    """Change a created schedule; a new cadence replaces the old one."""
    body = _definition(locals())
    body |= _cleared(clear or [], body)
    view = _client(context).ask("PATCH", _path(schedule), body)
    tell(view, f"{schedule} is at version {view['version']}.", json=json)


def pause(context: typer.Context, schedule: Address, note: NoteText = None, json: Json = False) -> None:
    """Pause a schedule: nothing is due until it is resumed."""
    view = _client(context).ask("POST", _path(schedule, "pause"), {"note": note})
    tell(view, f"{schedule} is paused.", json=json)


def resume(context: typer.Context, schedule: Address, note: NoteText = None, json: Json = False) -> None:
    """Resume a paused schedule; nothing of the pause is caught up."""
    view = _client(context).ask("POST", _path(schedule, "resume"), {"note": note})
    due = next(iter(view["next_action_times"] or ()), None)
    tell(view, f"{schedule} goes on; next due {local_time(due, view['timezone']) if due else 'never'}.", json=json)


def trigger(
    context: typer.Context,
    schedule: Address,
    content: InputText = None,
    params: Params = None,
    key: Annotated[str | None, typer.Option("--key", help="The same key and input give the same run.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run, and exit with its outcome.")] = False,
    json: Json = False,
) -> None:
    """Start a run now, whatever the schedule says."""
    from daemon.cli.follow import follow

    client = _client(context)
    body = _definition({"content": content, "params": params})
    run = client.ask("POST", _path(schedule, "trigger"), body, **({"Idempotency-Key": key} if key else {}))
    if wait:
        follow(client, run["id"], json=json)
        return
    tell(run, f"Run {run['id']} is {run['status']}.", json=json)


def skip(
    context: typer.Context,
    schedule: Address,
    due: Annotated[str, typer.Argument(metavar="TIME", help="The upcoming due time, RFC 3339.")],
    json: Json = False,
) -> None:
    """Leave out one upcoming due time."""
    view = _client(context).ask("POST", _path(schedule, "skip"), {"scheduled_time": due})
    tell(view, f"{schedule} leaves out {local_time(due, view['timezone'])}.", json=json)


def unskip(
    context: typer.Context,
    schedule: Address,
    due: Annotated[str, typer.Argument(metavar="TIME", help="The due time that was left out, RFC 3339.")],
    json: Json = False,
) -> None:
    """Start a due time after all that was to be left out."""
    view = _client(context).ask("POST", _path(schedule, "unskip"), {"scheduled_time": due})
    tell(view, f"{schedule} does not leave out {local_time(due, view['timezone'])} any more.", json=json)


def backfill(
    context: typer.Context,
    schedule: Address,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="The first due time, RFC 3339.")],
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="The last due time, RFC 3339.")],
    overlap: OverlapName = None,
    json: Json = False,
) -> None:
    """Start due times of the past that were not started."""
    body = {"from": start, "to": end, **({"overlap_policy": overlap} if overlap else {})}
    view = _client(context).ask("POST", _path(schedule, "backfill"), body)
    text = f"{view['backfilled']} due times are started, {view['already_run']} had been"
    if view["skipped_overlap"]:
        text += f", {view['skipped_overlap']} were skipped because of the overlap policy"
    if view["upcoming"]:
        text += f", {view['upcoming']} will start by themselves when their jitter is over"
    tell(view, f"{text}.", json=json)


def delete(context: typer.Context, schedule: Address, json: Json = False) -> None:
    """Delete a created schedule; its name is free again and its history stays."""
    tell(_client(context).ask("DELETE", _path(schedule)), f"{schedule} was deleted.", json=json)


def _client(context: typer.Context) -> "Client":
    from daemon.cli.client import Client
    from daemon.cli.locate import find_daemon

    return Client(find_daemon(context.obj))


def _path(schedule: str, what: str = "") -> str:
    from daemon.cli.client import schedule_path
    from daemon.cli.offline import split_address

    return schedule_path(*split_address(schedule), what)


_PLAIN = {
    "cron": "cron_expression",
    "timezone": "timezone",
    "start_at": "start_at",
    "end_at": "end_at",
    "overlap": "overlap_policy",
    "catchup": "catchup",
    "pause_on_failure": "pause_on_failure",
    "paused": "paused",
    "description": "description",
}
_DURATIONS = {
    "every": "interval_seconds",
    "offset": "offset_seconds",
    "jitter": "jitter_seconds",
    "catchup_window": "catchup_window_seconds",
}


_CLEARABLE = {
    "description": "description",
    "start_at": "start_at",
    "end_at": "end_at",
    "params": "task_params",
    "metadata": "task_metadata",
}


def _definition(options: dict[str, Any]) -> dict[str, Any]:
    """Return the body that the given options make."""
    body = {key: options[name] for name, key in _PLAIN.items() if options.get(name) is not None}
    body |= {key: seconds_of(name, options[name]) for name, key in _DURATIONS.items() if options.get(name) is not None}
    if options.get("content") is not None:
        body["initial_input"] = {"content": options["content"]}
    for name, key in (("params", "task_params"), ("metadata", "task_metadata")):
        if options.get(name) is not None:
            body[key] = _object(name, options[name])
    return body


def _cleared(keys: list[str], body: dict[str, Any]) -> dict[str, None]:
    """Return the body that clears what was named, and nothing that is set at once."""
    found: dict[str, None] = {}
    for key in keys:
        name = _CLEARABLE.get(key.replace("-", "_"))
        if name is None:
            raise typer.BadParameter(f"{key!r} is none of {', '.join(_CLEARABLE)}", param_hint="--clear")
        if name in body:
            raise typer.BadParameter(f"{key} cannot be set and cleared at once", param_hint="--clear")
        found[name] = None
    return found


def seconds_of(name: str, text: str) -> int:
    """Return the seconds of a duration; raise BadParameter for what is none."""
    from daemon.units import parse_duration

    try:
        return int(parse_duration(text).total_seconds())
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is {error}", param_hint=f"--{name.replace('_', '-')}") from None


def _object(name: str, text: str) -> dict[str, Any]:
    import json

    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no JSON: {error}", param_hint=f"--{name}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{text!r} is no JSON object", param_hint=f"--{name}")
    return value
