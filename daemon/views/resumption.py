"""The line with which a person continues the session of a run by hand."""

import shlex
from pathlib import Path

from daemon.config.schema import Config, ProcessAgent
from daemon.rules.sessions import command_by_hand
from daemon.runs.folder import run_folder
from daemon.runs.settings import settings_of
from daemon.store.runs import Run
from daemon.store.workspaces import Workspace


def resume_command(run: Run, workspace: Workspace | None, state_dir: Path, config: Config) -> str | None:
    """Return a command of a shell that continues the session of a run, where its agent worked.

    None if the run has no session, or if the program or the place is not known any more: some programs find a session
    only where it was begun.
    """
    if run.session is None:
        return None
    command = command_by_hand(settings_of(run).result_format, run.session)
    place = _place(run, workspace, state_dir, config)
    return None if command is None or place is None else f"cd {shlex.quote(str(place))} && {command}"


def _place(run: Run, workspace: Workspace | None, state_dir: Path, config: Config) -> Path | None:
    """Return where the agent of a run worked, None if that is gone or not known."""
    if workspace is not None:
        return Path(workspace.path) if workspace.state == "present" else None
    agent = config.agents.get(run.agent)
    if not isinstance(agent, ProcessAgent):
        return None
    settings = config.environments.get(agent.environment) if agent.environment else None
    if settings is None or settings.mode == "none":
        return run_folder(state_dir, run.id) / "work"
    return config.resolve(settings.path) if settings.mode == "local" and settings.path is not None else None
