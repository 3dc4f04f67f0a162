"""`agentcron runs ...`: start, show, follow, cancel and retry runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.help import CommandGroup
from daemon.cli.output import local_time, print_facts, print_json, print_table, say, shortened, tell
from daemon.cli.parameters import (
    AgentName,
    Cursor,
    From,
    Json,
    Key,
    Limit,
    OptionalRunNumber,
    RunNumber,
    To,
    Wait,
    instant_text,
    key_header,
)
from daemon.cli.request_body import body_of, of_one_run, with_fields
from daemon.text import plural

if TYPE_CHECKING:
    from sqlite3 import Connection

    from daemon.config.schema import Config
    from daemon.views.runs import RunList

app = CommandGroup(
    help="Start, show, follow, cancel and retry runs.", epilog="Example: agentcron runs list --status failed"
)


@app.command("list", epilog="Example: agentcron runs list --status failed --limit 5")
def list_command(
    context: typer.Context,
    agent: AgentName = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            metavar="AGENT/NAME[@ID]",
            help="Show only runs of the schedules that had this name, deleted ones too; with @ID only of that one.",
        ),
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="STATUS", help="Show only runs with this status.")
    ] = None,
    start: From = None,
    end: To = None,
    cursor: Cursor = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """List the newest runs."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.offline import listing, split_past_address
    from daemon.views.runs import runs_page

    config = find_daemon(context.obj)
    if schedule is not None:
        split_past_address(schedule)
    first, last, chosen = instant_text("--from", start), instant_text("--to", end), _status(status)

    def query(connection: "Connection") -> "RunList":
        return runs_page(
            connection,
            agent=agent,
            address=schedule,
            status=chosen,
            first=first,
            last=last,
            limit=limit,
            cursor=cursor,
        )

    asked = {"agent": agent, "schedule": schedule, "status": chosen, "from": first, "to": last, "cursor": cursor}
    view = listing(config, query, "/runs", "runs", limit, **asked)
    if not view["runs"]:
        _warn_of_unknown(config, agent, schedule)
    if json:
        print_json(view)
        return
    zone = config.daemon.timezone
    print_table(
        ("run", "schedule", "trigger", "due", "status", "took", "error"),
        (
            (
                run["id"],
                run["schedule"] or run["agent"],
                run["trigger"],
                local_time(run["scheduled_for"], run["timezone"] or zone),
                _status_of(run),
                _took(run),
                shortened(run["error"]),
            )
            for run in view["runs"]
        ),
        empty="No runs.",
    )


def _warn_of_unknown(config: "Config", agent: str | None, schedule: str | None) -> None:
    """Warn that runs were wanted of an agent or a schedule that does not exist: its name may be misspelt."""
    from daemon.cli.schedule_views import shown
    from daemon.errors import NotFoundError

    if agent is not None and config.agents and agent not in config.agents:  # without agents, the config has errors
        say(f"warning: {config.file} has no agent {agent!r}", error=True)
    if schedule is not None:
        try:
            shown(config, schedule)
        except NotFoundError as error:
            say(f"warning: {error}", error=True)


def _status_of(run: dict[str, Any]) -> str:
    """Return the status of a run, and what it waits for."""
    waiting_for = run.get("waiting_for")  # not sent by daemons of earlier versions
    return f"{run['status']}: {waiting_for}" if waiting_for else str(run["status"])


def _status(text: str | None) -> str | None:
    from daemon.model import RunStatus

    if text is not None and text not in set(RunStatus):
        raise typer.BadParameter(f"{text!r} is not a status; choose from {', '.join(RunStatus)}", param_hint="--status")
    return text


def _took(run: dict[str, Any]) -> str:
    milliseconds = run["duration_ms"]
    return "-" if milliseconds is None else f"{milliseconds / 1000:.1f} s"


@app.command(epilog="Example: agentcron runs show 42")
def show(context: typer.Context, run: RunNumber, json: Json = False) -> None:
    """Show a run with its steps and events."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.offline import document, run_numbered
    from daemon.config.paths import state_dir
    from daemon.units import format_size
    from daemon.views.runs import run_details

    config = find_daemon(context.obj)
    folder = state_dir(config)
    details = document(
        config, lambda connection: run_details(connection, run_numbered(connection, run), folder), f"/runs/{run}"
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
            ("requested by", details["creator_principal"]),
            ("due", local_time(details["scheduled_for"], zone)),
            ("status", _status_of(details)),
            ("exit status", details["exit_code"]),
            ("signal", details["signal"]),
            ("error", details["error"]),
            ("message", details["message"]),
            ("started", details["started_at"] and local_time(details["started_at"], zone)),
            ("took", details["completed_at"] and _took(details)),
            ("usage", usage),
            ("peak memory", None if peak is None else format_size(peak)),
            ("CPU time", None if cpu is None else f"{cpu:.1f} s"),
            ("output", None if details["output_bytes"] is None else output),
            ("next attempt", details["next_run_id"]),
            ("previous attempt", details["previous_run_id"]),
            ("input", details["initial_input"]["content"]),
            ("folder", _folder(config, run)),
            *_workspace_facts(details["workspace"]),
        )
    )
    _print_restore_steps(details["workspace"])
    print()
    print_table(
        ("step", "from", "to", "error"),
        ((step["name"], step["started_at"], step["completed_at"], step["error"] or "") for step in details["steps"]),
        empty="No steps yet.",
    )
    print()
    print_table(
        ("event", "at", "data"),
        ((event["type"], event["at"], _flat(event["data"])) for event in details["events"]),
        empty="No events yet.",
    )


def _workspace_facts(workspace: dict[str, Any] | None) -> list[tuple[str, object]]:
    """Return the facts to print about the workspace of a run."""
    if workspace is None:
        return []
    saved = workspace["saved"]
    facts: list[tuple[str, object]] = [("workspace", f"{workspace['path']} ({workspace['state']})")]
    facts += [("base commit", workspace["base"]), ("not removed", workspace["note"])]
    if saved is not None:
        facts.append(("saved work", f"{plural(saved['commits'], 'commit')}, {plural(saved['files'], 'changed file')}"))
        facts += [("saved as it was", text) for text in saved.get("as_it_was", ())]  # not in rows of earlier versions
    if saved is not None and saved["ignored"]:
        names = ", ".join(saved["ignored_names"][:5])
        facts.append(("not saved", f"ignored by git ({saved['ignored']}): {names}"))
    return facts


def _print_restore_steps(workspace: dict[str, Any] | None) -> None:
    saved = workspace["saved"] if workspace is not None else None
    if saved is not None and saved["restore"]:
        print("\nto restore the saved work")
        for step in saved["restore"]:
            say(f"  {step}")


def _flat(data: dict[str, Any]) -> str:
    """Return the data of an event in one line, without nested objects."""
    return " ".join(f"{name}={value}" for name, value in data.items() if not isinstance(value, dict))


def _folder(config: "Config", run: int) -> Path:
    from daemon.config.paths import state_dir
    from daemon.runs.folder import run_folder

    return run_folder(state_dir(config), run)


@app.command(epilog="Example: agentcron runs logs 42 -f")
def logs(
    context: typer.Context,
    run: RunNumber,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Follow the output until the run ends.")] = False,
    json: Json = False,
) -> None:
    """Show the output of a run."""
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
    run: OptionalRunNumber = None,
    every: Annotated[bool, typer.Option("--all", help="Cancel all active runs that you may cancel.")] = False,
    agent: Annotated[str | None, typer.Option("--agent", metavar="AGENT", help="Cancel those of this agent.")] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", metavar="AGENT/NAME", help="Cancel those of this schedule.")
    ] = None,
    json: Json = False,
) -> None:
    """Cancel an active run, all of an agent or a schedule, or all of them.

    If no daemon runs, the next one cancels them when it starts.
    """
    from daemon.cli.cancellation import cancel_all, request_cancellation
    from daemon.cli.locate import find_daemon
    from daemon.cli.offline import split_address

    if [run is not None, every, agent is not None, schedule is not None].count(True) != 1:
        raise typer.BadParameter("give one of a run number, --all, --agent and --schedule", param_hint="RUN")
    if schedule is not None:
        split_address(schedule)
    config = find_daemon(context.obj)
    if run is None:
        cancelled, running = cancel_all(config, agent, schedule)
        if json:
            print_json({"cancelled": cancelled})
        else:
            when = "" if running or not cancelled else " when the daemon starts"
            say(f"Cancelling {plural(len(cancelled), 'run')}{when}." if cancelled else "No active runs to cancel.")
        return
    view, running = request_cancellation(config, run)
    if json:
        print_json(view)
    else:
        say(f"Cancelling run {run}{'' if running else ' when the daemon starts'}.")


@app.command(epilog="Example: agentcron runs start triage --input @prompt.md --wait")
@with_fields(of_one_run("input", "params", "metadata"))
def start(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent.")],
    key: Key = None,
    wait: Wait = False,
    json: Json = False,
    **options: Any,  # noqa: ANN401
) -> None:
    """Start a run of an agent now, without a schedule."""
    from daemon.cli.client import Client
    from daemon.cli.follow import follow as follow_run
    from daemon.cli.locate import find_daemon
    from daemon.model import NAME

    if not NAME.fullmatch(agent):
        raise typer.BadParameter(f"{agent!r} is not the name of an agent", param_hint="AGENT")
    client = Client(find_daemon(context.obj))
    run = client.ask("POST", f"/agents/{agent}/runs", body_of(options), **key_header(key))
    if wait:
        follow_run(client, run["id"], json=json)
    else:
        tell(run, f"Run {run['id']} is {run['status']}.", json=json)


@app.command(epilog="Example: agentcron runs retry 42 --wait")
def retry(
    context: typer.Context,
    run: RunNumber,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the attempt; exit with 1 unless it completes.")] = False,
    json: Json = False,
) -> None:
    """Start another attempt of a run that has ended."""
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
        say(f"Run {attempt['id']}, attempt {attempt['attempt']}, is {attempt['status']}.")
