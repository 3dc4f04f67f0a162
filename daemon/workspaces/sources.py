"""What the workspaces of an environment are cloned from, according to the config."""

import socket
from pathlib import Path

from daemon.config.schema import Config, ProcessAgent
from daemon.workspaces.jobs import Author, Source
from daemon.workspaces.urls import is_remote


def source_of(config: Config, name: str) -> Source | None:
    """Return what the workspaces of an environment are cloned from, None if they are not clones."""
    environment = config.environments.get(name)
    if environment is None or environment.mode != "git":
        return None
    repository = environment.repository or ""
    if not is_remote(repository):
        repository = str(config.resolve(Path(repository)))
    return Source(
        environment=name,
        repository=repository,
        ref=environment.ref,
        fetch_every=environment.fetch_every.total_seconds(),
        require_fetch=environment.require_fetch,
        fetch_timeout=environment.fetch_timeout.total_seconds(),
    )


def author_for(agent: str, section: ProcessAgent) -> Author:
    """Return who commits in the workspaces of an agent's runs: by default the agent, at this host."""
    return Author(
        name=section.git_author_name or agent,
        email=section.git_author_email or f"{agent}@{socket.gethostname()}",
        is_name_set=section.git_author_name is not None,
        is_email_set=section.git_author_email is not None,
    )


def source_for(config: Config, agent: str) -> Source | None:
    """Return what the workspaces of an agent's runs are cloned from, None if they are not clones."""
    section = config.agents.get(agent)
    if not isinstance(section, ProcessAgent) or section.environment is None:
        return None
    return source_of(config, section.environment)
