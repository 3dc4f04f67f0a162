"""The command `agentcron`: its commands and options, and how it reports errors."""

import errno
import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from daemon.cli import backup, doctor, retention, runs, schedules, service, workspaces
from daemon.cli.help import CommandGroup
from daemon.errors import AgentcronError, ConfigError
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


def main() -> None:
    """Run the command line; a user's error ends in a message and an exit status, never in a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.stdout is None:  # closed by the parent process
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as the process lives
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:  # app() raises SystemExit
            sys.stdout.flush()
    except ConfigError as error:
        _fail(*error.problems, status=error.exit_status)
    except AgentcronError as error:
        _fail(f"agentcron: {error}", status=error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail("agentcron: cannot write the output: no space left on device", status=1)


def _fail(*lines: str, status: int) -> NoReturn:
    """Write lines to standard error, with control characters escaped, and exit."""
    from daemon.systemd import is_journal
    from daemon.text import escape

    level = "<3>" if is_journal(2) else ""  # an error, as sd-daemon(3) writes it
    for line in lines:
        print(f"{level}{escape(line)}", file=sys.stderr)
    sys.exit(status)
