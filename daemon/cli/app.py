"""The command `agentcron`: its commands and options, and how it reports errors."""

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli import backup, doctor, init, pools, retention, runs, schedules, service, workspaces
from daemon.cli.help import CommandGroup
from daemon.version import VERSION

app = CommandGroup(
    name="agentcron",
    help="cron for AI agents: start agent runs on schedules, exactly once, and keep their history.",
    epilog="Example: agentcron --config config.toml run",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(schedules.app, name="schedules")
app.add_typer(runs.app, name="runs")
app.add_typer(workspaces.app, name="workspaces")
app.add_typer(retention.app, name="retention")
service.register(app)
pools.register(app)
init.register(app)
backup.register(app)
doctor.register(app)


def _show_version(value: bool) -> None:  # noqa: FBT001 - the signature of an option's callback
    if value:
        typer.echo(f"agentcron {VERSION}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Use this config file.")] = None,
    version: Annotated[  # noqa: ARG001 - acts through its callback
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that precede every command."""
    context.obj = config
