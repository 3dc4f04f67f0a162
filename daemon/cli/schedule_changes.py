"""`agentcron schedules create|update|pause|...`: commands that change a schedule through the running daemon."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.output import local_time, tell
from daemon.cli.parameters import Json, Key, Wait, instant_text, key_header
from daemon.cli.request_body import OPTIONS, body_of, of_one_run, with_fields
from daemon.model import Overlap
from daemon.text import plural

if TYPE_CHECKING:
    from daemon.cli.client import Client

Address = Annotated[str, typer.Argument(metavar="AGENT/NAME", help="The schedule.")]
NoteText = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Reason, kept in the history.")]
Cancel = Annotated[bool, typer.Option("--cancel", help="Also cancel its running runs.")]
OverlapName = Annotated[
    str | None, typer.Option("--overlap", metavar="POLICY", help=f"Overlap policy: {', '.join(Overlap)}.")
]
IfMatch = Annotated[
    int | None,
    typer.Option(
        "--if-match",
        metavar="VERSION",
        min=1,
        help="Do it only if the schedule is at this version, see `show`.",
    ),
]
_CLEARABLE = {field.key: field.api for field in OPTIONS if field.clearable}


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


@with_fields(OPTIONS)
def create(context: typer.Context, schedule: Address, json: Json = False, **options: Any) -> None:  # noqa: ANN401
    """Create a schedule; it lives in the database, not in the config file."""
    from daemon.cli.offline import split_address

    agent, name = split_address(schedule)
    client = _client(context)
    view = client.ask("POST", f"/agents/{agent}/schedules", {"name": name, **body_of(options)})
    tell(view, f"{schedule} was created.", json=json)


@with_fields(OPTIONS)
def update(
    context: typer.Context,
    schedule: Address,
    clear: Annotated[
        list[str] | None,
        typer.Option("--clear", metavar="KEY", help=f"Reset to the default: {', '.join(_CLEARABLE)}."),
    ] = None,
    version: IfMatch = None,
    json: Json = False,
    **options: Any,  # noqa: ANN401
) -> None:
    """Change a created schedule; a new cadence replaces the old one."""
    client = _client(context)
    body = body_of(options)
    body |= _cleared(clear or [], body)
    view = client.ask("PATCH", _path(schedule), body, **_if_match(version))
    tell(view, f"{schedule} is at version {view['version']}.", json=json)


def pause(
    context: typer.Context,
    schedule: Address,
    note: NoteText = None,
    cancel: Cancel = False,
    version: IfMatch = None,
    json: Json = False,
) -> None:
    """Pause a schedule: until it is resumed, nothing is due, and its waiting runs do not start."""
    body = {"note": note, **({"cancel": True} if cancel else {})}  # a daemon of an earlier version knows no such key
    view = _client(context).ask("POST", _path(schedule, "pause"), body, **_if_match(version))
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


def resume(
    context: typer.Context, schedule: Address, note: NoteText = None, version: IfMatch = None, json: Json = False
) -> None:
    """Resume a paused schedule; due times during the pause are not caught up.

    Runs that waited start as the schedule's catch-up and overlap policies say; the others are cancelled.
    """
    view = _client(context).ask("POST", _path(schedule, "resume"), {"note": note}, **_if_match(version))
    due = next(iter(view["next_action_times"] or ()), None)
    tell(view, f"{schedule} is resumed; next due {local_time(due, view['timezone']) if due else 'never'}.", json=json)


@with_fields(of_one_run("input", "params"))
def trigger(
    context: typer.Context,
    schedule: Address,
    key: Key = None,
    wait: Wait = False,
    version: IfMatch = None,
    json: Json = False,
    **options: Any,  # noqa: ANN401
) -> None:
    """Start a run now, regardless of the schedule."""
    from daemon.cli.follow import follow

    client = _client(context)
    headers = {**key_header(key), **_if_match(version)}
    run = client.ask("POST", _path(schedule, "trigger"), body_of(options), **headers)
    if wait:
        follow(client, run["id"], json=json)
        return
    tell(run, f"Run {run['id']} is {run['status']}.", json=json)


def skip(
    context: typer.Context,
    schedule: Address,
    due: Annotated[str, typer.Argument(metavar="TIME", help="The upcoming due time, RFC 3339.")],
    version: IfMatch = None,
    json: Json = False,
) -> None:
    """Skip one upcoming due time."""
    view = _client(context).ask(
        "POST", _path(schedule, "skip"), {"scheduled_time": instant_text("TIME", due)}, **_if_match(version)
    )
    tell(view, f"{schedule} will skip {local_time(due, view['timezone'])}.", json=json)


def unskip(
    context: typer.Context,
    schedule: Address,
    due: Annotated[str, typer.Argument(metavar="TIME", help="The skipped due time, RFC 3339.")],
    version: IfMatch = None,
    json: Json = False,
) -> None:
    """Cancel the skip of a due time."""
    view = _client(context).ask(
        "POST", _path(schedule, "unskip"), {"scheduled_time": instant_text("TIME", due)}, **_if_match(version)
    )
    tell(view, f"{schedule} will not skip {local_time(due, view['timezone'])}.", json=json)


def backfill(
    context: typer.Context,
    schedule: Address,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="The first due time, RFC 3339.")],
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="The last due time, RFC 3339.")],
    overlap: OverlapName = None,
    version: IfMatch = None,
    json: Json = False,
) -> None:
    """Start past due times that were not started."""
    body = {"from": instant_text("--from", start), "to": instant_text("--to", end), **body_of({"overlap": overlap})}
    view = _client(context).ask("POST", _path(schedule, "backfill"), body, **_if_match(version))
    text = f"Due times started: {view['backfilled']}; already run: {view['already_run']}"
    if view["skipped_overlap"]:
        fix = "" if overlap else " (--overlap buffer_all starts them one after the other)"
        text += f"; skipped by the overlap policy: {view['skipped_overlap']}{fix}"
    if view["upcoming"]:
        text += f"; starting later because of their jitter: {view['upcoming']}"
    tell(view, f"{text}.", json=json)


def delete(
    context: typer.Context, schedule: Address, cancel: Cancel = False, version: IfMatch = None, json: Json = False
) -> None:
    """Delete a created schedule; its waiting runs are cancelled, its name is free again and its history stays."""
    path = _path(schedule) + ("?cancel=true" if cancel else "")
    view = _client(context).ask("DELETE", path, **_if_match(version))
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


def _if_match(version: int | None) -> dict[str, str]:
    return {} if version is None else {"If-Match": f'"{version}"'}


def _path(schedule: str, what: str = "") -> str:
    from daemon.cli.client import schedule_path
    from daemon.cli.offline import split_address

    return schedule_path(*split_address(schedule), what)


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
