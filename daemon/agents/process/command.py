"""`type = "command"`: a command on this host that gets the input and whose exit status is the outcome."""

from collections.abc import Iterator
from typing import Any

from daemon.agents.base import Work
from daemon.agents.process.agent import UnfitError
from daemon.agents.process.spec import process_spec, program_of, with_cap
from daemon.config.schema import CommandAgent, Config
from daemon.config.values import SESSION

_MOST_IN_ARGUMENT = 128 * 1024 - 1  # MAX_ARG_STRLEN of execve(2), less the final NUL


def command_spec(work: Work, agent_config: CommandAgent, config: Config, umask: int) -> dict[str, Any]:
    """Return the spec of a command run; raise SecretError, or UnfitError if the input does not fit an argument."""
    by_argument = agent_config.input == "argument"
    if by_argument and len(work.content.encode()) > _MOST_IN_ARGUMENT:
        raise UnfitError('the input is too long for a command\'s argument; use input = "stdin" or "file"')
    if by_argument and "\0" in work.content:
        raise UnfitError('the input has a NUL character, which an argument cannot; use input = "stdin" or "file"')
    return process_spec(
        work,
        agent_config,
        config,
        umask,
        [
            program_of(agent_config.words, config),
            *_arguments(agent_config, work.session),
            *([work.content] if by_argument else []),
        ],
        reads_input=agent_config.input == "stdin",
    )


def _arguments(agent_config: CommandAgent, session: str | None) -> Iterator[str]:
    """Yield the arguments of a command with the session to continue; without one, those that name it are left out.

    Arguments in an array of their own are left out together.
    """
    for item in agent_config.command[1:]:
        group = [item] if isinstance(item, str) else item
        if session is not None or not any(SESSION.search(word) for word in group):
            yield from (SESSION.sub(session or "", word) for word in with_cap(group, agent_config))
