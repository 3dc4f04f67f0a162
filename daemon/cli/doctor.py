"""`agentcron doctor`: what is wrong with this installation, and how to mend it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from daemon.cli.output import Json, print_json

if TYPE_CHECKING:
    from daemon.doctor.findings import Finding


def register(app: typer.Typer) -> None:
    """Add the command, which has no noun."""
    app.command(epilog="Example: agentcron doctor")(doctor)


def doctor(context: typer.Context, json: Json = False) -> None:
    """Look at config, unit, permissions, database, agents, remotes, disk and clock; change nothing."""
    from collections import Counter
    from dataclasses import asdict

    from daemon.doctor.findings import Severity

    findings = list(_all(context.obj))
    counts = Counter(finding.severity for finding in findings)
    if json:
        print_json(
            {
                "findings": [asdict(finding) for finding in findings],
                "errors": counts[Severity.ERROR],
                "warnings": counts[Severity.WARNING],
            }
        )
    else:
        _print(findings)
        errors, warnings, good = (counts[kind] for kind in (Severity.ERROR, Severity.WARNING, Severity.OK))
        print(f"{errors} errors, {warnings} warnings, {good} things are good.")
    if counts[Severity.ERROR]:
        raise typer.Exit(1)


def _all(option: Path | None) -> Iterator["Finding"]:
    from daemon.cli.client import answers
    from daemon.cli.locate import read_config, with_running_state_dir
    from daemon.cli.privileges import become, become_owner
    from daemon.config.paths import state_dir
    from daemon.doctor.findings import error, note, ok, warning
    from daemon.doctor.host import check_host
    from daemon.doctor.reachable import check_reachable
    from daemon.doctor.service_unit import check_unit, find_unit
    from daemon.doctor.settings import check_settings
    from daemon.doctor.state import check_state
    from daemon.errors import ConfigError

    try:
        config = read_config(option)
    except ConfigError as problem:
        yield from (error("config", line, "correct it: `agentcron check`") for line in problem.problems)
        return
    unit = find_unit(config)  # which root can ask systemd for on every host
    user = become_owner(state_dir(config))  # what root may do says nothing of what the daemon can
    if user is None and unit is not None and unit.user is not None:
        user = become(unit.user)  # there is no state yet, or it is root's
    if user is not None:
        yield note("doctor", f"looks as {user}")
    if not os.access(config.file, os.R_OK):
        mend = f"chgrp agentcron {config.file} && chmod 640 {config.file}"
        yield error("config", f"{config.file} is closed to {user}", mend)
    yield ok("config", f"{config.file} is good: {len(config.agents)} agents")
    former = with_running_state_dir(config)
    if former is not None:
        what = f"the daemon that runs by {config.file} has its state in {state_dir(former)}, not in {state_dir(config)}"
        yield warning("daemon", what, "restart it, or take that change back")
    if unit is None:
        yield from check_settings(config, credentials=False)
    else:
        yield from check_settings(config, unit.environment, unit.hides, credentials=False)
    yield from check_unit(config, unit)
    yield from check_state(config, None if unit is None else unit.user or "root")
    yield from check_host(config)
    yield from check_reachable(config, lambda: answers(config))


def _print(findings: list["Finding"]) -> None:
    """Print one finding a paragraph, its mend below it, coloured on a terminal."""
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
        if finding.mend is not None:
            console.print(Text(f"{'':7}  {'':{width}}  mend: {escape(finding.mend)}", "dim"))
