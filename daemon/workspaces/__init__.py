"""Workspaces: a private clone for every run of a git environment, made, saved and removed safely.

The functions for scripts are imported at their first use: the daemon leaves their work to a helper process.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.workspaces.scripting import (
        cleanup_old_task_workspaces,
        cleanup_on_task_completion,
        cleanup_task_workspace,
        get_task_workspace_size,
    )

__all__ = [
    "cleanup_old_task_workspaces",
    "cleanup_on_task_completion",
    "cleanup_task_workspace",
    "get_task_workspace_size",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from daemon.workspaces import scripting  # noqa: PLC0415 - as said above

    return getattr(scripting, name)
