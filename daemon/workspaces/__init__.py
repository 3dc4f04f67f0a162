"""Workspaces: a private clone for every run of a git environment, made, saved and removed safely."""

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
