"""What the agent of a run answered, as the API and the command line show it."""

import os
from pathlib import Path

from typing_extensions import TypedDict

from daemon.agents.process.supervisor.files import open_in
from daemon.agents.process.supervisor.listener import ANSWER
from daemon.model import ACTIVE, RunStatus
from daemon.runs.folder import run_folder
from daemon.runs.settings import settings_of
from daemon.store.runs import Run

_LONGEST = 257 * 1024  # bytes: a little more than supervisors write, with the mark that an answer was cut


class RunAnswer(TypedDict):
    """The answer of a run: null while it is active, and if it left none."""

    run_id: int
    status: RunStatus
    answer: str | None


def run_answer(run: Run, state_dir: Path) -> RunAnswer:
    """Return the whole answer of a run that has ended, which its supervisor masked, else its message; blocks."""
    if run.status in ACTIVE:
        answer = None
    elif run.status is RunStatus.INTERRUPTED or settings_of(run).result_format == "none":
        answer = run.message  # no supervisor wrote the file, so the agent may have
    else:
        answer = _stored(run_folder(state_dir, run.id)) or run.message
    return {"run_id": run.id, "status": run.status, "answer": answer}


def _stored(folder: Path) -> str | None:
    try:
        descriptor = open_in(str(folder), ANSWER)
    except OSError:  # most agents print no answer that is told from the rest
        return None
    try:
        return os.pread(descriptor, _LONGEST, 0).decode(errors="replace")
    finally:
        os.close(descriptor)
