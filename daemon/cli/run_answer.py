"""Show what the agent of a run answered."""

import sys

from daemon.cli.offline import document, run_numbered
from daemon.cli.output import print_json
from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.errors import RefusedError
from daemon.model import ACTIVE
from daemon.text import escape_lines
from daemon.views.answers import run_answer


def show_answer(config: Config, run: int, *, json: bool) -> None:
    """Show the answer of a run; raise RefusedError if there is none, or not yet."""
    found = document(
        config,
        lambda connection: run_answer(run_numbered(connection, run), state_dir(config)),
        f"/runs/{run}/answer",
    )
    if json:
        print_json(found)
    elif found["answer"] is not None:
        _show(found["answer"])
    elif found["status"] in ACTIVE:
        raise RefusedError(f"run {run} is {found['status']}, and answers at its end; wait for that with -f")
    else:
        raise RefusedError(f"run {run} left no answer; `agentcron runs logs {run}` shows what it did")


def _show(answer: str) -> None:
    """Write an answer; on a terminal, escaped and with an end of its last line."""
    if sys.stdout.isatty():
        answer = escape_lines(answer if answer.endswith("\n") else f"{answer}\n")
    sys.stdout.buffer.write(answer.encode(errors="replace"))
    sys.stdout.buffer.flush()
