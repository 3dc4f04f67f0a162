"""What an agent answered, as it is when its notification is sent: read from the run's folder, which has all of it.

The outbox holds only the beginning, so that a target that is down for hours does not fill the database with answers.
"""

import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from daemon.agents.process.agent_report import LONGEST_MESSAGE
from daemon.agents.process.supervisor.listener import ANSWER
from daemon.regular_file import open_regular
from daemon.text import cut, escape
from daemon.workspaces.layout import ARTIFACTS, RUNS

_LONGEST = 64 * 1024
"""Bytes of an answer that are sent."""
_DELETED = "\n[cut: the run was deleted before this was sent]"
_MOST_ARTIFACTS = 50
_MOST_LOOKED_AT = 1000  # of a folder that an agent may have filled


def complete(event: Mapping[str, Any], state_dir: Path) -> dict[str, Any]:
    """Return an event with the whole `answer`, and with the names of the run's `artifacts`; blocks.

    Nothing is added to one whose target gets no answer. If the run was deleted meanwhile, what the event holds of the
    answer is sent.
    """
    if "answer" not in event:
        return dict(event)
    folder = state_dir / RUNS / str(event["run_id"])
    return {**event, "answer": _answer(folder, event["answer"]), "artifacts": _artifacts(folder)}


def _answer(folder: Path, beginning: str | None) -> str | None:
    """Return the answer in the folder of a run, else the beginning of it that is known; the supervisor masked both."""
    try:
        descriptor = open_regular(folder / ANSWER, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        is_cut = beginning is not None and len(beginning) >= LONGEST_MESSAGE and not folder.exists()
        return f"{beginning}{_DELETED}" if is_cut else beginning
    try:
        data = os.pread(descriptor, _LONGEST + 1, 0)
    finally:
        os.close(descriptor)
    return cut(data.decode(errors="replace"), _LONGEST)


def _artifacts(folder: Path) -> list[str]:
    """Return the names of up to 50 artifacts, in order."""
    try:
        with os.scandir(folder / ARTIFACTS) as entries:
            names = [entry.name for entry in islice(entries, _MOST_LOOKED_AT)]
    except OSError:
        return []
    return [escape(name) for name in sorted(names)[:_MOST_ARTIFACTS]]
