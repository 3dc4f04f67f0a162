"""What the agent of a run answered, as the API and the command line show it."""

import os
from pathlib import Path

from typing_extensions import TypedDict

from daemon.agents.process.formats.report import LONGEST_STORED
from daemon.agents.process.supervisor.files import open_in
from daemon.agents.process.supervisor.listener import ANSWER
from daemon.model import ACTIVE, RunStatus
from daemon.runs.folder import run_folder
from daemon.store.runs import Run


class RunAnswer(TypedDict):
    """The answer of a run: null while it is active, and if it left none."""

    run_id: int
    status: RunStatus
    answer: str | None


def run_answer(run: Run, state_dir: Path) -> RunAnswer:
    """Return the whole answer of a run that has ended, which its supervisor masked, else its message; blocks."""
    ended = run.status not in ACTIVE  # before that, the agent may have written the file itself
    answer = (_stored(run_folder(state_dir, run.id)) or run.message) if ended else None
    return {"run_id": run.id, "status": run.status, "answer": answer}


def _stored(folder: Path) -> str | None:
    try:
        descriptor = open_in(str(folder), ANSWER)
    except OSError:  # most agents print no answer that is told from the rest
        return None
    try:
        return os.pread(descriptor, LONGEST_STORED, 0).decode(errors="replace")
    finally:
        os.close(descriptor)
