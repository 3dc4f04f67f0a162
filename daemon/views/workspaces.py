"""Workspaces as the API and `--json` show them: size, age, and why each is kept."""

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from typing_extensions import TypedDict

from daemon.config.effective import policy_of
from daemon.config.schema import Config
from daemon.model import RunStatus
from daemon.rules.cleanup import CleanupDecision, decide_cleanup
from daemon.store.workspaces import Workspace, by_environment, present_workspaces, saved_work
from daemon.text import plural
from daemon.units import format_instant
from daemon.views.pages import unknown_cursor
from daemon.workspaces.jobs import WorkspaceContents


class WorkspaceView(TypedDict):
    """A workspace, and why it is kept."""

    run_id: int
    agent: str
    schedule: str | None
    environment: str
    path: str
    status: RunStatus
    kept: bool
    reason: str
    bytes: int | None
    age_seconds: int | None
    created_at: str
    ended_at: str | None


class WorkspaceList(TypedDict):
    """The existing workspaces, by environment and run, and the space that each environment uses."""

    workspaces: list[WorkspaceView]
    environments: list[dict[str, Any]]
    total: int
    next_cursor: str | None


def workspaces_view(
    connection: sqlite3.Connection,
    config: Config,
    now: datetime,
    agents: list[str] | None = None,
    *,
    limit: int | None = None,
    cursor: str | None = None,
) -> WorkspaceList:
    """Return a page of the existing workspaces, and the space that each environment uses with its saved work.

    `agents` are the visible agents, None for all; the figures of an environment include all its workspaces. The cursor
    is the last workspace of the previous page, as `ENVIRONMENT/RUN`; without a limit there is one page.
    """
    environments: list[dict[str, Any]] = []
    found: list[WorkspaceView] = []
    groups, saved = by_environment(present_workspaces(connection)), saved_work(connection)
    total, begin = 0, _place_of(cursor)
    for name in sorted(groups.keys() | saved.keys()):
        policy, group = policy_of(config, name), groups.get(name, [])
        seen = [one for one in group if agents is None or one.agent in agents]
        if not seen and agents is not None:
            continue
        total += len(seen)
        decisions = decide_cleanup((one.candidate for one in group), policy, now)
        following = [one for one in seen if (name, one.run_id) > begin]  # oldest run first
        left = None if limit is None else limit - len(found)
        found += [workspace_view(one, decisions[one.run_id], now) for one in following[:left]]
        used = sum(one.bytes or 0 for one in group)
        _, by_saved_work = saved.get(name, (0, 0))
        facts = {"workspaces": len(group), "bytes": used, "saved_bytes": by_saved_work, "quota": policy.quota}
        unmeasured = sum(1 for one in group if one.bytes is None)
        environments.append({"environment": name, "unmeasured": unmeasured, **facts})
    after = f"{found[-1]['environment']}/{found[-1]['run_id']}" if found and len(found) == limit else None
    return {"workspaces": found, "environments": environments, "total": total, "next_cursor": after}


def _place_of(cursor: str | None) -> tuple[str, int]:
    """Return the environment and the run after which a page begins; raise InvalidError."""
    if cursor is None:
        return "", 0
    name, _, run = cursor.rpartition("/")
    if not (name and run.isascii() and run.isdigit()):
        raise unknown_cursor(cursor)
    return name, int(run)


def workspace_view(workspace: Workspace, decision: CleanupDecision, now: datetime) -> WorkspaceView:
    """Return one existing workspace."""
    ended = workspace.ended_at
    return {
        "run_id": workspace.run_id,
        "agent": workspace.agent,
        "schedule": f"{workspace.agent}/{workspace.schedule}" if workspace.schedule else None,
        "environment": workspace.environment,
        "path": workspace.path,
        "status": workspace.status,
        "kept": workspace.kept,
        "reason": decision.reason if workspace.kept else workspace.note or decision.reason,
        "bytes": workspace.bytes,
        "age_seconds": None if ended is None else max(0, int((now - ended).total_seconds())),
        "created_at": workspace.created_at,
        "ended_at": None if ended is None else format_instant(ended),
    }


def cleanup_decision(
    connection: sqlite3.Connection, config: Config, workspace: Workspace, now: datetime
) -> CleanupDecision:
    """Return what the policy decides about one workspace among those of its environment."""
    group = by_environment(present_workspaces(connection)).get(workspace.environment, [])
    others = [one.candidate for one in group if one.run_id != workspace.run_id]  # it may have been removed meanwhile
    decisions = decide_cleanup([*others, workspace.candidate], policy_of(config, workspace.environment), now)
    return decisions[workspace.run_id]


class LossView(TypedDict):
    """What is lost with a workspace that is not saved; `files` and `bytes` are all that is in it.

    `uncounted` names folders whose work could not be counted, with the reason: everything in them may be lost.
    """

    path: str
    files: int
    bytes: int
    repositories: list[str]
    commits: int
    changed_files: int
    ignored: int
    lfs_objects: int
    uncounted: list[str]


def loss_view(path: str, found: WorkspaceContents) -> LossView:
    """Return what is lost with a workspace."""
    unsaved = found.unsaved
    return {
        "path": path,
        "files": found.files,
        "bytes": found.bytes,
        "repositories": list(found.repositories),
        "commits": unsaved.commits,
        "changed_files": unsaved.files,
        "ignored": unsaved.ignored,
        "lfs_objects": unsaved.lfs_objects,
        "uncounted": list(unsaved.uncounted),
    }


def loss_words(lost: Mapping[str, Any]) -> list[str]:
    """Return what is lost, for people: what was counted, then what could not be."""
    commits, changed, ignored = lost["commits"], lost["changed_files"], lost["ignored"]
    counts = [
        plural(commits, "commit") if commits else "",
        plural(changed, "changed or new file") if changed else "",
        plural(lost["lfs_objects"], "object") + " of Git LFS" if lost["lfs_objects"] else "",
        plural(ignored, "ignored file") if ignored else "",
    ]
    counted = ", ".join(filter(None, counts)) or "nothing that exists only there"
    return [counted, *(f"everything in {one}" for one in lost["uncounted"])]
