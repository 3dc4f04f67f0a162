"""What the workspaces of an environment are cloned from, according to the config."""

import re
from pathlib import Path

from daemon.config.schema import Config, ProcessAgent
from daemon.workspaces.jobs import Source

_REMOTE = re.compile(r"[^/]+:")  # scheme://..., or host:path as ssh has it (git-fetch(1), GIT URLS)


def source_of(config: Config, name: str) -> Source | None:
    """Return what the workspaces of an environment are cloned from, None if they are not clones."""
    environment = config.environments.get(name)
    if environment is None or environment.mode != "git":
        return None
    repository = environment.repository or ""
    if not _REMOTE.match(repository):
        repository = str(config.resolve(Path(repository)))
    return Source(
        environment=name,
        repository=repository,
        ref=environment.ref,
        fetch_every=environment.fetch_every.total_seconds(),
        require_fetch=environment.require_fetch,
        fetch_timeout=environment.fetch_timeout.total_seconds(),
    )


def source_for(config: Config, agent: str) -> Source | None:
    """Return what the workspaces of an agent's runs are cloned from, None if they are not clones."""
    section = config.agents.get(agent)
    if not isinstance(section, ProcessAgent) or section.environment is None:
        return None
    return source_of(config, section.environment)
