"""Settings that are probably not what was meant, or that name what is not there; `check` warns of them, too."""

import grp
import os
import pwd
import shutil
from collections.abc import Iterator

from daemon.agents.process import program_of
from daemon.config.schema import AgentexAgent, BaseAgent, Config, ProcessAgent, RemoteAgent
from daemon.config.secrets import read_secret
from daemon.config.values import Secret
from daemon.doctor.findings import Finding, error, warning
from daemon.errors import SecretError
from daemon.model import Overlap

_IF_MEANT = "change it in the config, unless it is meant"


def check_settings(config: Config, path: str | None = None, *, credentials: bool = True) -> Iterator[Finding]:
    """Find what of the config cannot work here, or not as it looks.

    `path` is the service's search path; without `credentials` those of the service are left for its unit to tell.
    """
    for place, secret in secrets_of(config):
        if credentials or secret.source != "credential":
            yield from _secret(place, config, secret)
    yield from _group(config.control.group)
    for name, agent in config.agents.items():
        place = f"agents.{name}"
        yield from _overlap(place, agent)
        if isinstance(agent, ProcessAgent):
            yield from _command(place, config, agent, path)
        if isinstance(agent, AgentexAgent) and agent.acp_type != "sync" and not agent.await_completion:
            what = "without await_completion a run ends at the acknowledgement; overlap cannot see its work"
            yield warning(place, what, _IF_MEANT)
        if isinstance(agent, AgentexAgent) and agent.await_completion and not _has_tcp(config):
            what = "without control.listen or public_url its hook_url leads to the socket of this host"
            yield warning(place, what, _IF_MEANT)
    for name, target in config.notify.items():
        if target.command is not None:
            yield from _program(f"notify.{name}", config, target.command, path)


def secrets_of(config: Config) -> Iterator[tuple[str, Secret]]:
    """Yield the secrets that agents get, with the place where each is written down."""
    for name, agent in config.agents.items():
        if isinstance(agent, ProcessAgent):
            yield from ((f"agents.{name}.env.{variable}", secret) for variable, secret in agent.env.items())
        if isinstance(agent, RemoteAgent) and agent.api_key is not None:
            yield f"agents.{name}.api_key", agent.api_key


def _group(name: str | None) -> Iterator[Finding]:
    """Find a group that the daemon cannot give its socket to (chown(2): one that it is in)."""
    if name is None:
        return
    try:
        group = grp.getgrnam(name).gr_gid
    except KeyError:
        yield error("control.group", f"there is no group {name!r}", f"groupadd {name}, or name another")
        return
    if os.geteuid() != 0 and group not in {os.getegid(), *os.getgroups()}:
        user = pwd.getpwuid(os.geteuid()).pw_name
        what = f"{user} is not in the group {name!r}, and cannot give it the socket"
        yield error("control.group", what, f"usermod -aG {name} {user}, and restart the daemon")


def _has_tcp(config: Config) -> bool:
    return config.control.listen is not None or config.control.public_url is not None


def _overlap(place: str, agent: BaseAgent) -> Iterator[Finding]:
    for name, schedule in agent.schedules.items():
        if schedule.overlap is Overlap.ALLOW_ALL and agent.max_concurrent == 1:
            what = f'overlap = "allow_all" changes nothing while {place}.max_concurrent is 1'
            yield warning(f"{place}.schedules.{name}", what, _IF_MEANT)


def _program(place: str, config: Config, command: list[str], path: str | None) -> Iterator[Finding]:
    program = program_of(command, config)
    if shutil.which(program, path=path or os.environ.get("PATH")) is None:
        what = f"{program!r} is not an executable program here"
        yield error(
            f"{place}.command", what, "install it, write its full path, or put its folder on the service's PATH"
        )


def _command(place: str, config: Config, agent: ProcessAgent, path: str | None) -> Iterator[Finding]:
    own = agent.env.get("PATH")
    yield from _program(place, config, agent.command, own.value if own and own.source == "plain" else path)


def _secret(place: str, config: Config, secret: Secret) -> Iterator[Finding]:
    name = place.rpartition(".")[2]
    try:
        read_secret(config, name, secret)
    except SecretError as problem:
        yield error(
            place,
            str(problem).removeprefix(f"{name}: "),
            "put it there as a plain file that the daemon's user may read",
        )
