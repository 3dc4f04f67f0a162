"""Where workspaces lie below the state directory.

`environments/ENV/mirror` is a bare copy of the environment's repository, `environments/ENV/tasks/RUN` the workspace of
a run, `environments/.incoming` holds clones in the making, `environments/.scratch` what salvage works with, and
`environments/.trash` what is being deleted. Standard library only.
"""

from pathlib import Path

TOP = "environments"
RUNS = "runs"
TASKS = "tasks"
MIRROR = "mirror"
INCOMING = ".incoming"
SCRATCH = ".scratch"
QUARANTINE = "quarantine"


def tasks_of(environment: str) -> tuple[str, ...]:
    """Return the folders that lead to the workspaces of an environment."""
    return (TOP, environment, TASKS)


def workspace_path(state_dir: Path, environment: str, run_id: int | str) -> Path:
    """Return where the workspace of a run lies."""
    return state_dir.joinpath(*tasks_of(environment), str(run_id))
