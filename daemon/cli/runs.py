"""`agentcron runs ...`: what ran, how it ended, and what it printed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.output import Json, local_time, print_facts, print_json, print_table, shortened
from daemon.text import escape

if TYPE_CHECKING:
    from daemon.config.schema import Config

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
    from daemon.cli.locate import find_daemon
    from daemon.cli.offline import document, split_address
    from daemon.views.documents import runs_page

    config = find_daemon(context.obj)
    if schedule is not None:
        split_address(schedule)
    view = document(
        config,
        lambda connection: runs_page(connection, agent=agent, address=schedule, status=_status(status), limit=limit),
        "/runs",
        agent=agent,
        schedule=schedule,
        status=_status(status),
        limit=limit,
    )
    if json:
        print_json(view)
        return
    zone = config.daemon.timezone
    print_table(
        ("run", "agent", "schedule", "trigger", "due", "status", "took", "what was wrong"),
        (
            (
                run["id"],
                run["agent"],
                run["schedule"],
                run["trigger"],
                local_time(run["scheduled_for"], run["timezone"] or zone),
                run["status"],
                _took(run),
                shortened(run["error"]),
            )
            for run in view["runs"]
        ),
        empty="No runs.",
    )


def _status(text: str | None) -> str | None:
    from daemon.model import RunStatus

    if text is not None and text not in set(RunStatus):
        raise typer.BadParameter(f"{text!r} is no status; there are {', '.join(RunStatus)}", param_hint="--status")
    return text


def _took(run: dict[str, Any]) -> str:
    milliseconds = run["duration_ms"]
    return "-" if milliseconds is None else f"{milliseconds / 1000:.1f} s"


@app.command(epilog="Example: agentcron runs show 42")
def show(context: typer.Context, run: Number, json: Json = False) -> None:
    """Show one run with its steps and events."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.offline import document, run_numbered
    from daemon.units import format_size
    from daemon.views.documents import run_details

    config = find_daemon(context.obj)
    details = document(
        config, lambda connection: run_details(connection, run_numbered(connection, run)), f"/runs/{run}"
    )
    if json:
        print_json(details)
        return
    zone = details["timezone"] or config.daemon.timezone
    usage = ", ".join(f"{name} {value}" for name, value in details["usage"].items() if value is not None)
    peak, cpu = details["memory_peak_bytes"], details["cpu_seconds"]
    output = f"{details['output_bytes']} bytes, {details['output_dropped']} dropped"
    print_facts(
        (
            ("run", run),
            ("title", details["display_name"]),
            ("agent", details["agent"]),
            ("schedule", details["schedule"]),
            ("trigger", f"{details['trigger']}, attempt {details['attempt']}"),
            ("asked for by", details["creator_principal"]),
            ("due", local_time(details["scheduled_for"], zone)),
            ("status", details["status"]),
            ("exit status", details["exit_code"]),
            ("signal", details["signal"]),
            ("what was wrong", details["error"]),
            ("message", details["message"]),
            ("started", details["started_at"] and local_time(details["started_at"], zone)),
            ("took", details["completed_at"] and _took(details)),
            ("usage", usage),
            ("memory", None if peak is None else f"{format_size(peak)} at most"),
            ("CPU time", None if cpu is None else f"{cpu:.1f} s"),
            ("output", None if details["output_bytes"] is None else output),
            ("goes on as", details["next_run_id"]),
            ("goes on from", details["previous_run_id"]),
            ("input", details["initial_input"]["content"]),
            ("folder", _folder(config, run)),
            *_of_workspace(details["workspace"]),
        )
    )
    _print_restoring(details["workspace"])
    print()
    print_table(
        ("step", "from", "to", "what was wrong"),
        ((step["name"], step["started_at"], step["completed_at"], step["error"] or "") for step in details["steps"]),
        empty="No steps yet.",
    )
    print()
    print_table(
        ("event", "at", "data"),
        ((event["type"], event["at"], _told(event["data"])) for event in details["events"]),
        empty="No events yet.",
    )


def _of_workspace(workspace: dict[str, Any] | None) -> list[tuple[str, object]]:
    """Return what there is to say of a run's workspace."""
    if workspace is None:
        return []
    saved = workspace["saved"]
    facts: list[tuple[str, object]] = [("workspace", f"{workspace['path']} ({workspace['state']})")]
    facts += [("began at", workspace["base"]), ("not removed", workspace["note"])]
    if saved is not None:
        facts.append(("saved work", f"{saved['commits']} commits, {saved['files']} changed files"))
    if saved is not None and saved["ignored"]:
        names = ", ".join(saved["ignored_names"][:5])
        facts.append(("not saved", f"{saved['ignored']} entries that git ignores: {names}"))
    return facts


def _print_restoring(workspace: dict[str, Any] | None) -> None:
    saved = workspace["saved"] if workspace is not None else None
    if saved is not None and saved["restore"]:
        print("\nto get the saved work back")
        for step in saved["restore"]:
            print(f"  {escape(step)}")


def _told(data: dict[str, Any]) -> str:
    """Return the data of an event in a line; what has a shape of its own is shown elsewhere."""
    return " ".join(f"{name}={value}" for name, value in data.items() if not isinstance(value, dict))


def _folder(config: "Config", run: int) -> Path:
    from daemon.config.paths import state_dir
    from daemon.runs.folder import run_folder

    return run_folder(state_dir(config), run)


@app.command(epilog="Example: agentcron runs logs 42 -f")
def logs(
    context: typer.Context,
    run: Number,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Follow to the end of the run.")] = False,
    json: Json = False,
) -> None:
    """Show what a run printed."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.run_output import output_of
    from daemon.cli.run_output import show as show_output

    chunks, ended = output_of(find_daemon(context.obj), run, follow=follow)
    if json:
        output = b"".join(chunks)
        details = ended()
        facts = {key: details[key] for key in ("status", "output_bytes", "output_dropped")}
        print_json({"run_id": run, "output": output.decode(errors="replace"), **facts})
    else:
        show_output(chunks)


@app.command(epilog="Example: agentcron runs cancel 42")
def cancel(
    context: typer.Context,
    run: Annotated[int | None, typer.Argument(metavar="[RUN]", min=1, max=2**63 - 1, help="The run's number.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All active runs that you may cancel.")] = False,
    json: Json = False,
) -> None:
    """Cancel an active run, or all; without a daemon, the next one will do it."""
    from daemon.cli.cancellation import cancel_all, request_cancellation
    from daemon.cli.locate import find_daemon

    if (run is None) is not every:
        raise typer.BadParameter("name one run, or say --all", param_hint="RUN")
    config = find_daemon(context.obj)
    if run is None:
        cancelled, running = cancel_all(config)
        if json:
            print_json({"cancelled": cancelled})
        else:
            print(f"{len(cancelled)} runs {'are being' if running else 'will be'} cancelled", end="")
            print("." if running else " when the daemon starts.")
        return
    view, running = request_cancellation(config, run)
    if json:
        print_json(view)
    elif running:
        print(f"Run {run} is being cancelled.")
    else:
        print(f"Run {run} will be cancelled when the daemon starts.")


@app.command(epilog="Example: agentcron runs retry 42 --wait")
def retry(
    context: typer.Context,
    run: Number,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the attempt, and exit with its outcome.")] = False,
    json: Json = False,
) -> None:
    """Make the next attempt of a run that has ended."""
    from daemon.cli.client import Client
    from daemon.cli.follow import follow as follow_run
    from daemon.cli.locate import find_daemon

    client = Client(find_daemon(context.obj))
    attempt = client.ask("POST", f"/runs/{run}/retry")
    if wait:
        follow_run(client, attempt["id"], json=json)
    elif json:
        print_json(attempt)
    else:
        print(f"Run {attempt['id']}, attempt {attempt['attempt']}, is {attempt['status']}.")
