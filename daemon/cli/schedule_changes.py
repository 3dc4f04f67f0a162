"""`agentcron schedules create|update|pause|...`: commands that change a schedule through the running daemon."""

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.output import local_time, tell
from daemon.cli.parameters import Json
from daemon.model import Overlap
from daemon.rules.schedule_fields import BOOLEAN, DURATION, FIELDS, Kind, ScheduleField
from daemon.text import plural

if TYPE_CHECKING:
    from daemon.cli.client import Client

Address = Annotated[str, typer.Argument(metavar="AGENT/NAME", help="The schedule.")]
NoteText = Annotated[str | None, typer.Option("--note", help="Reason, kept in the history.")]
Cancel = Annotated[bool, typer.Option("--cancel", help="Also cancel its running runs.")]
OverlapName = Annotated[
    str | None, typer.Option("--overlap", metavar="POLICY", help=f"Overlap policy: {', '.join(Overlap)}.")
]
InputText = Annotated[str | None, typer.Option("--input", metavar="TEXT", help="Input of this run.")]
Params = Annotated[str | None, typer.Option("--params", metavar="JSON", help="Parameters of this run, a JSON object.")]
_OPTIONS = [field for field in FIELDS if field.help and not field.file_only]
_CLEARABLE = {field.key: field.api for field in _OPTIONS if field.clearable}


def _with_fields(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of a schedule, which it gets as `**options`."""
    signature = inspect.signature(command)
    context, schedule, *others, _ = signature.parameters.values()
    fields = [
        inspect.Parameter(field.key, context.kind, default=None, annotation=_option_of(field)) for field in _OPTIONS
    ]
    parameters = [context, schedule, *fields, *others]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def _option_of(field: ScheduleField) -> Any:  # noqa: ANN401 - an annotation
    if field.kind is BOOLEAN:
        return Annotated[bool | None, typer.Option(field.option, help=field.help)]
    return Annotated[str | None, typer.Option(field.option, metavar=field.metavar, help=field.help)]


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


@_with_fields
def create(context: typer.Context, schedule: Address, json: Json = False, **options: Any) -> None:  # noqa: ANN401
    """Create a schedule; it lives in the database, not in the config file."""
    from daemon.cli.offline import split_address

    agent, name = split_address(schedule)
    body = _definition(options)
    view = _client(context).ask("POST", f"/agents/{agent}/schedules", {"name": name, **body})
    tell(view, f"{schedule} was created.", json=json)


@_with_fields
def update(
    context: typer.Context,
    schedule: Address,
    clear: Annotated[
        list[str] | None,
        typer.Option("--clear", metavar="KEY", help=f"Reset to the default: {', '.join(_CLEARABLE)}."),
    ] = None,
    json: Json = False,
    **options: Any,  # noqa: ANN401
) -> None:
    """Change a created schedule; a new cadence replaces the old one."""
    body = _definition(options)
    body |= _cleared(clear or [], body)
    view = _client(context).ask("PATCH", _path(schedule), body)
    tell(view, f"{schedule} is at version {view['version']}.", json=json)


def pause(
    context: typer.Context, schedule: Address, note: NoteText = None, cancel: Cancel = False, json: Json = False
) -> None:
    """Pause a schedule: until it is resumed, nothing is due, and its waiting runs do not start."""
    body = {"note": note, **({"cancel": True} if cancel else {})}  # a daemon of an earlier version knows no such key
    view = _client(context).ask("POST", _path(schedule, "pause"), body)
    waiting, left = view.get("waiting_runs", 0), view.get("running_runs", 0) - view.get("cancelled_runs", 0)
    facts = (
        (waiting, "waits until it is resumed", "wait until it is resumed"),
        (view.get("cancelled_runs", 0), "is cancelled", "are cancelled"),
        (left, "continues", "continue"),
    )
    tell(view, f"{schedule} is paused{_counted(facts)}.", json=json)


def _counted(facts: Iterable[tuple[int, str, str]]) -> str:
    """Return what happens to how many runs, without those of which there are none."""
    parts = [f"{plural(count, 'run')} {one if count == 1 else many}" for count, one, many in facts if count > 0]
    return f"; {', '.join(parts)}" if parts else ""


def resume(context: typer.Context, schedule: Address, note: NoteText = None, json: Json = False) -> None:
    """Resume a paused schedule; due times during the pause are not caught up.

    Runs that waited start as the schedule's catch-up and overlap policies say; the others are cancelled.
    """
    view = _client(context).ask("POST", _path(schedule, "resume"), {"note": note})
    due = next(iter(view["next_action_times"] or ()), None)
    tell(view, f"{schedule} is resumed; next due {local_time(due, view['timezone']) if due else 'never'}.", json=json)


def trigger(
    context: typer.Context,
    schedule: Address,
    content: InputText = None,
    params: Params = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Repeating the command with this key returns the same run.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the run, and exit with its outcome.")] = False,
    json: Json = False,
) -> None:
    """Start a run now, regardless of the schedule."""
    from daemon.cli.follow import follow

    client = _client(context)
    body = _definition({"input": content, "params": params})
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
    """Skip one upcoming due time."""
    view = _client(context).ask("POST", _path(schedule, "skip"), {"scheduled_time": due})
    tell(view, f"{schedule} will skip {local_time(due, view['timezone'])}.", json=json)


def unskip(
    context: typer.Context,
    schedule: Address,
    due: Annotated[str, typer.Argument(metavar="TIME", help="The skipped due time, RFC 3339.")],
    json: Json = False,
) -> None:
    """Cancel the skip of a due time."""
    view = _client(context).ask("POST", _path(schedule, "unskip"), {"scheduled_time": due})
    tell(view, f"{schedule} will not skip {local_time(due, view['timezone'])}.", json=json)


def backfill(
    context: typer.Context,
    schedule: Address,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="The first due time, RFC 3339.")],
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="The last due time, RFC 3339.")],
    overlap: OverlapName = None,
    json: Json = False,
) -> None:
    """Start past due times that were not started."""
    body = {"from": start, "to": end, **({"overlap_policy": overlap} if overlap else {})}
    view = _client(context).ask("POST", _path(schedule, "backfill"), body)
    text = f"Due times started: {view['backfilled']}; already run: {view['already_run']}"
    if view["skipped_overlap"]:
        fix = "" if overlap else " (--overlap buffer_all starts them one after the other)"
        text += f"; skipped by the overlap policy: {view['skipped_overlap']}{fix}"
    if view["upcoming"]:
        text += f"; starting later because of their jitter: {view['upcoming']}"
    tell(view, f"{text}.", json=json)


def delete(context: typer.Context, schedule: Address, cancel: Cancel = False, json: Json = False) -> None:
    """Delete a created schedule; its waiting runs are cancelled, its name is free again and its history stays."""
    view = _client(context).ask("DELETE", _path(schedule) + ("?cancel=true" if cancel else ""))
    cancelled, running = view.get("cancelled_runs", 0), view.get("running_runs", 0)
    facts = (
        (cancelled, "was cancelled", "were cancelled"),
        (0 if cancel else running, "continues", "continue"),
    )
    tell(view, f"{schedule} was deleted{_counted(facts)}.", json=json)


def _client(context: typer.Context) -> "Client":
    from daemon.cli.client import Client
    from daemon.cli.locate import find_daemon

    return Client(find_daemon(context.obj))


def _path(schedule: str, what: str = "") -> str:
    from daemon.cli.client import schedule_path
    from daemon.cli.offline import split_address

    return schedule_path(*split_address(schedule), what)


def _definition(options: dict[str, Any]) -> dict[str, Any]:
    """Return the request body for the given options."""
    body: dict[str, Any] = {}
    for field in _OPTIONS:
        value = options.get(field.key)
        if value is not None:
            _put(body, field.api, _parsed(field.kind, field.option, value) if isinstance(value, str) else value)
    return body


def _put(body: dict[str, Any], name: str, value: object) -> None:
    """Set a value under a name of the API, where `a.b` is the key b of the object a."""
    *outer, last = name.split(".")
    for key in outer:
        body = body.setdefault(key, {})
    body[last] = value


def _cleared(keys: list[str], body: dict[str, Any]) -> dict[str, None]:
    """Return the body that clears the named keys; raise BadParameter for one that is also set."""
    found: dict[str, None] = {}
    for key in keys:
        name = _CLEARABLE.get(key.replace("-", "_"))
        if name is None:
            raise typer.BadParameter(f"{key!r} is not one of {', '.join(_CLEARABLE)}", param_hint="--clear")
        if name in body:
            raise typer.BadParameter(f"{key} cannot be set and cleared at once", param_hint="--clear")
        found[name] = None
    return found


def seconds_of(name: str, text: str) -> int:
    """Return the seconds of a duration; raise BadParameter if it is not one."""
    return int(_parsed(DURATION, f"--{name.replace('_', '-')}", text))


def _parsed(kind: Kind, option: str, text: str) -> Any:  # noqa: ANN401 - values of every kind
    try:
        return kind.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is {error}", param_hint=option) from None
