"""`agentcron doctor`: check an installation, and say how to fix what is wrong."""

import os
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import typer

from daemon.cli.output import print_json, say
from daemon.cli.parameters import Json

if TYPE_CHECKING:
    from daemon.config.schema import Config
    from daemon.doctor.findings import Finding
    from daemon.doctor.service_unit import Unit


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: agentcron doctor")(doctor)


def doctor(context: typer.Context, json: Json = False) -> None:
    """Check the installation, and say how to fix problems.

    This checks config, systemd unit, permissions, database, agents, git remotes, disk and clock, and changes nothing.
    It asks known programs for their version and login, which may write to their own folders. Run it as root or as the
    daemon's user.
    """
    from collections import Counter

    from daemon.doctor.findings import Severity
    from daemon.text import plural

    findings = list(_run_checks(context.obj))
    counts = Counter(finding.severity for finding in findings)
    errors, warnings, passed = (counts[kind] for kind in (Severity.ERROR, Severity.WARNING, Severity.OK))
    if json:
        print_json({"findings": [finding.view() for finding in findings], "errors": errors, "warnings": warnings})
    else:
        _print(findings)
        say(f"{plural(errors, 'error')}, {plural(warnings, 'warning')}, {plural(passed, 'check')} passed.")
    if errors:
        raise typer.Exit(1)


def _run_checks(option: Path | None) -> Iterator["Finding"]:
    from daemon.cli.client import is_responding
    from daemon.cli.last_config import how_to_start
    from daemon.cli.locate import read_config, with_running_state_dir
    from daemon.cli.privileges import become, become_owner, become_reader
    from daemon.config.paths import state_dir
    from daemon.doctor.findings import error, note, ok, warning
    from daemon.doctor.host import check_host
    from daemon.doctor.reachable import check_reachable
    from daemon.doctor.service_unit import check_unit, find_unit
    from daemon.doctor.state import check_state
    from daemon.errors import ConfigError, RefusedError
    from daemon.text import plural

    try:
        config = read_config(option)
    except ConfigError as problem:
        yield from (error("config", line, "correct the file, then run `agentcron check`") for line in problem.problems)
        last = how_to_start(option)
        if last is not None:
            yield note("config", last)
        return
    unit = find_unit(config)  # before becoming another user: root can ask systemd on every host
    try:
        user = become_owner(state_dir(config))  # what root may do says nothing about what the daemon may do
    except RefusedError as problem:
        yield error("state", str(problem), "correct the owners of these directories, then run `agentcron doctor` again")
        return
    if user is None and unit is not None and unit.user is not None:
        user = become(unit.user)  # there is no state yet, or it belongs to root
    user = become_reader(config, user)
    if user is not None:
        yield note("doctor", f"checks run as user {user}")
    if not os.access(config.file, os.R_OK):
        file = quote(str(config.file))
        fix = f"chgrp {quote(str(config.control.group or user))} {file} && chmod 640 {file}"
        yield error("config", f"{user} has no permission to read {config.file}", fix)
    yield ok("config", f"{config.file} is valid: {plural(len(config.agents), 'agent')}")
    running = with_running_state_dir(config)
    if running is not None:
        what = f"the daemon using {config.file} has its state in {state_dir(running)}, not in {state_dir(config)}"
        yield warning("daemon", what, "restart the daemon, or revert the change of state_dir")
    yield from _check_agents(config, unit)
    yield from check_unit(config, unit)
    yield from check_state(config, None if unit is None else unit.user or "root")
    yield from check_host(config)
    yield from check_reachable(config, lambda: is_responding(config))


def _check_agents(config: "Config", unit: "Unit | None") -> Iterator["Finding"]:
    """Check what agents need, in the environment that the unit gives the daemon; None if there is no unit."""
    from daemon.doctor.programs import check_programs
    from daemon.doctor.settings import check_settings

    if unit is None:
        yield from check_settings(config, credentials=False)
        yield from check_programs(config)
    else:
        yield from check_settings(config, unit.environment, unit.hides, credentials=False)
        yield from check_programs(config, unit.environment)


def _print(findings: list["Finding"]) -> None:
    """Print each finding with its fix below it, coloured on a terminal."""
    from rich.console import Console
    from rich.text import Text

    from daemon.text import escape

    styles = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        line = Text()
        line.append(finding.severity.ljust(7), styles[finding.severity])
        line.append(f"  {escape(finding.about).ljust(width)}  {escape(finding.what)}")
        console.print(line)
        if finding.fix is not None:
            console.print(Text(f"{'':7}  {'':{width}}  fix: {escape(finding.fix)}", "dim"))
