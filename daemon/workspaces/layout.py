"""Where workspaces, and what is needed to make and remove them, are in the state directory.

`environments/ENV/mirror` is a bare copy of the environment's repository, `environments/ENV/submodules/ID/mirror` one of
the repository of a submodule, `environments/ENV/tasks/RUN` the workspace of a run, and
`environments/ENV/tasks/schedule-ID` that of the last run of a schedule that keeps one place for its runs
(`rules/workspace_folders.py`). `environments/.incoming` holds unfinished clones, `environments/.scratch` temporary
repositories, of salvage for example, and `environments/.trash` what is being deleted. It imports little, because the
helper process imports this.
"""

from pathlib import Path

from daemon.rules.workspace_folders import TASKS

ENVIRONMENTS = "environments"
RUNS = "runs"
ARTIFACTS = "artifacts"
TEMPORARY = "tmp"
MIRROR = "mirror"
MIRROR_LOCK = "mirror.lock"
SUBMODULES = "submodules"
DAMAGED_MIRROR = "mirror.damaged"
INCOMING = ".incoming"
SCRATCH = ".scratch"
QUARANTINE = "quarantine"
UPSTREAM = "agentcron-upstream"
"""The file in a workspace's git folder that lists the commits and tags that it was made with, one per line."""


def tasks_of(environment: str) -> tuple[str, ...]:
    """Return the folder that holds the workspaces of an environment, as names below the state directory."""
    return (ENVIRONMENTS, environment, TASKS)


def submodules_folder(environment: str) -> tuple[str, ...]:
    """Return the folder that holds the mirrors of an environment's submodules, as names below the state directory."""
    return (ENVIRONMENTS, environment, SUBMODULES)


def mirrors_of(state_dir: Path, environment: str) -> list[Path]:
    """Return the mirrors of an environment, its own first; it may not exist."""
    submodules = state_dir.joinpath(*submodules_folder(environment)).glob(f"*/{MIRROR}")
    return [state_dir / ENVIRONMENTS / environment / MIRROR, *sorted(submodules)]


def workspace_path(state_dir: Path, environment: str, folder: int | str) -> Path:
    """Return the path of a workspace, by the name of its folder: usually the run's number."""
    return state_dir.joinpath(*tasks_of(environment), str(folder))
