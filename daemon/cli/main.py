"""The entry point of the command line: it turns errors into messages and exit statuses."""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from daemon.disk_room import NO_ROOM
from daemon.errors import AgentcronError, ConfigError


def main() -> None:
    """Run the command line; a user's error ends in a message and an exit status, never in a traceback."""
    execute = _command(sys.argv[1:])  # Ctrl-C in the middle of its imports ends the process at once
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.stdout is None:  # closed by the parent process
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as the process lives
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            execute()
        finally:  # it raises SystemExit
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
    except Exception as error:  # noqa: BLE001 - its text may come from anybody, and must not reach a terminal as it is
        if not isinstance(error, OSError) or error.errno not in NO_ROOM:
            _fail(*_traceback(), status=1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(f"agentcron: cannot write the output: {str(error.strerror).lower()}", status=1)


def _command(arguments: list[str]) -> Callable[[], object]:
    """Import what a command line needs and return what executes it."""
    start = plain_run(arguments)
    if start is None:
        from daemon.cli.app import app

        return app
    from daemon.cli.daemon_process import run_daemon

    file, accept_data_loss = start
    return partial(run_daemon, file, accept_data_loss=accept_data_loss)


def plain_run(arguments: list[str]) -> tuple[Path | None, bool] | None:
    """Return the config file and whether data loss is accepted if these arguments start the daemon; None for others.

    A daemon would keep typer and the other commands in memory for as long as it runs, so this common case is
    recognised without them. Whatever is written in any other way, mistakes included, is left to typer.
    """
    match arguments:
        case ["run", *options] | ["--config", _, "run", *options] if options in ([], ["--accept-data-loss"]):
            file = Path(arguments[1]) if arguments[0] == "--config" else None
            return file, bool(options)
    return None


def _traceback() -> list[str]:
    import traceback

    return traceback.format_exc().splitlines()


def _fail(*lines: str, status: int) -> NoReturn:
    """Write lines to standard error, with control characters escaped, and exit."""
    from daemon.systemd import is_journal
    from daemon.text import escape

    level = "<3>" if is_journal(2) else ""  # an error, as sd-daemon(3) writes it
    for line in lines:
        print(f"{level}{escape(line)}", file=sys.stderr)
    sys.exit(status)
