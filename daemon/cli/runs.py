"""`agentcron runs ...`: start, show, follow, cancel and retry runs."""

from collections import deque
from typing import Annotated, Any

import typer

from daemon.cli.help import CommandGroup
from daemon.cli.output import print_json, say, tell
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
    from daemon.cli.run_views import listed, print_runs, warn_of_unknown

    config = find_daemon(context.obj)
    span = {"from": instant_text("--from", start), "to": instant_text("--to", end)}
    asked = {"agent": agent, "schedule": schedule, "status": _status(status), **span, "cursor": cursor}
    view = listed(config, limit, asked)
    if not view["runs"]:
        warn_of_unknown(config, agent, schedule)
    if json:
        print_json(view)
    else:
        print_runs(view["runs"], config.daemon.timezone)


def _status(text: str | None) -> str | None:
    from daemon.model import RunStatus

    if text is not None and text not in set(RunStatus):
        raise typer.BadParameter(f"{text!r} is not a status; choose from {', '.join(RunStatus)}", param_hint="--status")
    return text


@app.command(epilog="Example: agentcron runs show 42")
def show(context: typer.Context, run: RunNumber, json: Json = False) -> None:
    """Show a run with its steps and events."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.run_views import print_run, shown

    config = find_daemon(context.obj)
    details = shown(config, run)
    if json:
        print_json(details)
    else:
        print_run(config, details)


@app.command(epilog="Example: agentcron runs logs 42 -f")
def logs(
    context: typer.Context,
    run: RunNumber,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Follow the run until it ends.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Show the output as the agent printed it.")] = False,
    answer: Annotated[bool, typer.Option("--answer", help="Show only what the agent answered.")] = False,
    json: Json = False,
) -> None:
    """Show what a run did: its output, or a transcript if agentcron knows the format of its output.

    With --json, the output is as the agent printed it.
    """
    from daemon.cli.locate import find_daemon
    from daemon.cli.run_answer import show_answer
    from daemon.cli.run_output import output_of, show_for_people
    from daemon.cli.run_output import show as show_output

    if raw and answer:
        raise typer.BadParameter("give only one of --raw and --answer", param_hint="--raw")
    config = find_daemon(context.obj)
    if answer and not follow:
        show_answer(config, run, json=json)
        return
    chunks, details = output_of(config, run, follow=follow)
    if answer:
        deque(chunks, maxlen=0)
        show_answer(config, run, json=json)
    elif json:
        output = b"".join(chunks)
        ended = details()
        facts = {key: ended[key] for key in ("status", "output_bytes", "output_dropped")}
        print_json({"run_id": run, "output": output.decode(errors="replace"), **facts})
    elif raw:
        show_output(chunks)
    else:
        show_for_people(chunks, details)


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
