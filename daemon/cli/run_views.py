"""What `runs list` and `runs show` ask for, from the database if it is readable, else from the daemon, and print."""

from collections.abc import Iterator
from sqlite3 import Connection
from typing import Any

from daemon.cli.offline import document, listing, run_numbered, split_past_address
from daemon.cli.output import local_time, print_facts, print_table, say, shortened
from daemon.cli.schedule_views import shown as shown_schedule
from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.errors import NotFoundError
from daemon.runs.folder import run_folder
from daemon.text import plural
from daemon.units import format_size
from daemon.views.runs import RunDetails, RunList, run_details, runs_page


def listed(config: Config, limit: int, asked: dict[str, str | None]) -> dict[str, Any]:
    """Return the newest runs that a query of `GET /runs` asks for; raise InvalidError for a bad address."""
    if asked["schedule"] is not None:
        split_past_address(asked["schedule"])

    def query(connection: Connection) -> RunList:
        return runs_page(
            connection,
            agent=asked["agent"],
            address=asked["schedule"],
            status=asked["status"],
            first=asked["from"],
            last=asked["to"],
            limit=limit,
            cursor=asked["cursor"],
            config=config,
        )

    return listing(config, query, "/runs", "runs", limit, **asked)


def warn_of_unknown(config: Config, agent: str | None, schedule: str | None) -> None:
    """Warn that runs were wanted of an agent or a schedule that does not exist: its name may be misspelt."""
    if agent is not None and config.agents and agent not in config.agents:  # without agents, the config has errors
        say(f"warning: {config.file} has no agent {agent!r}", error=True)
    if schedule is not None:
        try:
            shown_schedule(config, schedule)
        except NotFoundError as error:
            say(f"warning: {error}", error=True)


def shown(config: Config, run: int) -> dict[str, Any]:
    """Return one run with its steps and events."""
    folder = state_dir(config)

    def query(connection: Connection) -> RunDetails:
        return run_details(connection, run_numbered(connection, run), folder, config)

    return document(config, query, f"/runs/{run}")


def print_runs(runs: list[dict[str, Any]], zone: str) -> None:
    """Print a list of runs for people; `zone` is that of runs without a schedule."""
    print_table(
        ("run", "schedule", "trigger", "due", "status", "took", "error"),
        (
            (
                run["id"],
                run["schedule"] or run["agent"],
                run["trigger"],
                local_time(run["scheduled_for"], run["timezone"] or zone),
                shortened(_status_of(run)),
                _took(run),
                shortened(run["error"]),
            )
            for run in runs
        ),
        empty="No runs.",
    )


def print_run(config: Config, details: dict[str, Any]) -> None:
    """Print one run for people."""
    zone = details["timezone"] or config.daemon.timezone
    print_facts(
        (
            *_facts(details, zone),
            *_resource_facts(details),
            ("next attempt", details["next_run_id"]),
            ("previous attempt", details["previous_run_id"]),
            ("input", details["initial_input"]["content"]),
            ("folder", run_folder(state_dir(config), details["id"])),
            *_notification_facts(details.get("notifications", [])),  # not sent by daemons of earlier versions
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


def _facts(details: dict[str, Any], zone: str) -> Iterator[tuple[str, object]]:
    """Yield what a run is, and how far it is."""
    yield "run", details["id"]
    yield "title", details["display_name"]
    yield "agent", details["agent"]
    yield "schedule", details["schedule"]
    yield "trigger", f"{details['trigger']}, attempt {details['attempt']}"
    yield "requested by", details["creator_principal"]
    yield "due", local_time(details["scheduled_for"], zone)
    yield "status", _status_of(details)
    yield "exit status", details["exit_code"]
    yield "signal", details["signal"]
    yield "error", details["error"]
    yield "message", None if details["message"] == details["error"] else details["message"]
    yield "session", details.get("session")
    yield "continued from", details.get("resumed_session")
    yield "to continue it", details.get("resume_command")
    yield "started", details["started_at"] and local_time(details["started_at"], zone)
    yield "took", details["completed_at"] and _took(details)


def _resource_facts(details: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield what a run used."""
    peak, cpu = details["memory_peak_bytes"], details["cpu_seconds"]
    output = f"{details['output_bytes']} bytes, {details['output_dropped']} dropped"
    yield "usage", _usage(details)
    yield "peak memory", None if peak is None else format_size(peak)
    yield "CPU time", None if cpu is None else f"{cpu:.1f} s"
    yield "output", None if details["output_bytes"] is None else output


def _status_of(run: dict[str, Any]) -> str:
    """Return the status of a run, what it waits for, the kind of its failure, and whether it was denied anything."""
    waiting_for, kind, denials = (run.get(key) for key in ("waiting_for", "failure_kind", "denials"))
    status = f"{run['status']} ({kind})" if kind not in {None, "failed"} else str(run["status"])  # earlier daemons
    denied = f", {denials} denied" if denials else ""  # send none of these
    return f"{status}{denied}{f': {waiting_for}' if waiting_for else ''}"


def _usage(run: dict[str, Any]) -> str | None:
    """Return what a run used; of one that has ended, unknown is not nothing."""
    known = ", ".join(f"{name} {value}" for name, value in run["usage"].items() if value is not None)
    if not known:
        return "unknown" if run["completed_at"] and run["started_at"] else None
    return f"at least {known}" if run.get("usage_state") == "at_least" else known


def _took(run: dict[str, Any]) -> str:
    milliseconds = run["duration_ms"]
    return "-" if milliseconds is None else f"{milliseconds / 1000:.1f} s"


def _notification_facts(notifications: list[dict[str, Any]]) -> list[tuple[str, object]]:
    """Return the facts to print about what targets were told of the end of a run."""
    return [
        ("notification", f"{one['target']} ({one['event']}): " + ": ".join(filter(None, (one["state"], one["reason"]))))
        for one in notifications
    ]


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
