"""`agentcron runs ...`: what ran, how it ended, and what it printed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.drawing import Json, local_time, print_facts, print_json, print_table, shortened

if TYPE_CHECKING:
    from daemon.config.schema import Config
    from daemon.store.runs import Run

app = typer.Typer(
    help="Runs: what ran, how it ended, what it printed.",
    epilog="Example: agentcron runs list --status failed",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Number = Annotated[int, typer.Argument(metavar="RUN", min=1, max=2**63 - 1, help="The run's number.")]


@app.command("list", epilog="Example: agentcron runs list --status failed --limit 5")
def list_command(
    context: typer.Context,
    agent: Annotated[str | None, typer.Option("--agent", help="Only this agent's.")] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", metavar="AGENT/NAME", help="Only this schedule's.")
    ] = None,
    status: Annotated[str | None, typer.Option("--status", help="Only those in this status.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 20,
    json: Json = False,
) -> None:
    """List the newest runs."""
    from daemon.cli.reading import read_config, reading, split_address
    from daemon.views import list_runs, run_view

    config = read_config(context.obj)
    name = None
    if schedule is not None:
        agent, name = split_address(schedule)
    with reading(config) as connection:
        found, total = list_runs(connection, agent=agent, schedule=name, status=_status(status), limit=limit)
    if json:
        print_json({"runs": [run_view(run) for run in found], "total": total})
        return
    zone = config.daemon.timezone
    print_table(
        ("run", "agent", "schedule", "trigger", "due", "status", "took", "what was wrong"),
        (
            (
                run.id,
                run.agent,
                run.schedule,
                run.trigger,
                local_time(run.scheduled_for, zone),
                run.status,
                _took(run),
                shortened(run.error),
            )
            for run in found
        ),
        empty="No runs.",
    )


def _status(text: str | None) -> str | None:
    from daemon.model import RunStatus

    if text is not None and text not in set(RunStatus):
        raise typer.BadParameter(f"{text!r} is no status; there are {', '.join(RunStatus)}", param_hint="--status")
    return text


def _took(run: "Run") -> str:
    from daemon.views import run_view

    milliseconds = run_view(run)["duration_ms"]
    return "-" if milliseconds is None else f"{milliseconds / 1000:.1f} s"


@app.command(epilog="Example: agentcron runs show 42")
def show(context: typer.Context, run: Number, json: Json = False) -> None:
    """Show one run with its steps and events."""
    from daemon.cli.reading import read_config, reading, run_numbered
    from daemon.views import run_details

    config = read_config(context.obj)
    with reading(config) as connection:
        found = run_numbered(connection, run)
        details = run_details(connection, found)
    if json:
        print_json(details)
        return
    zone = config.daemon.timezone
    usage = ", ".join(f"{name} {value}" for name, value in details["usage"].items() if value is not None)
    print_facts(
        (
            ("run", found.id),
            ("title", found.display_name),
            ("agent", found.agent),
            ("schedule", found.address),
            ("trigger", f"{found.trigger}, attempt {found.attempt}"),
            ("due", local_time(found.scheduled_for, zone)),
            ("status", found.status),
            ("exit status", found.exit_code),
            ("signal", found.signal),
            ("what was wrong", found.error),
            ("message", found.message),
            ("started", found.started_at and local_time(found.started_at, zone)),
            ("took", found.completed_at and _took(found)),
            ("usage", usage),
            (
                "output",
                None if found.output_bytes is None else f"{found.output_bytes} bytes, {found.output_dropped} dropped",
            ),
            ("goes on as", found.next_run_id),
            ("goes on from", found.previous_run_id),
            ("input", found.input_content),
            ("folder", _folder(config, run)),
        )
    )
    print()
    print_table(
        ("step", "from", "to", "what was wrong"),
        ((step["name"], step["started_at"], step["completed_at"], step["error"] or "") for step in details["steps"]),
        empty="No steps yet.",
    )
    print()
    print_table(
        ("event", "at", "data"),
        (
            (event["type"], event["at"], " ".join(f"{name}={value}" for name, value in event["data"].items()))
            for event in details["events"]
        ),
        empty="No events yet.",
    )


def _folder(config: "Config", run: int) -> Path:
    from daemon.config.places import state_dir
    from daemon.runs.folders import run_folder

    return run_folder(state_dir(config), run)


@app.command(epilog="Example: agentcron runs logs 42 -f")
def logs(
    context: typer.Context,
    run: Number,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Follow to the end of the run.")] = False,
    json: Json = False,
) -> None:
    """Show what a run printed."""
    from daemon.cli.following import copy_output
    from daemon.cli.reading import read_config, reading, run_numbered

    config = read_config(context.obj)
    with reading(config) as connection:
        found = run_numbered(connection, run)
        output = copy_output(connection, found, _folder(config, run), follow=follow, collect=json)
        found = run_numbered(connection, run)
    if json:
        print_json(
            {
                "run_id": found.id,
                "status": found.status,
                "output": output.decode(errors="replace"),
                "output_bytes": found.output_bytes,
                "output_dropped": found.output_dropped,
            }
        )


@app.command(epilog="Example: agentcron runs cancel 42")
def cancel(context: typer.Context, run: Number, json: Json = False) -> None:
    """Cancel an active run; without a daemon, the next one will do it."""
    from daemon.cli.reading import read_config
    from daemon.cli.requests import request_cancellation

    config = read_config(context.obj)
    found, running = request_cancellation(config, run)
    if json:
        from daemon.views import run_view

        print_json(run_view(found))
    elif running:
        print(f"Run {run} is being cancelled.")
    else:
        print(f"Run {run} will be cancelled when the daemon starts.")
