"""Settings that are probably not what was meant, or that name what is not there; `check` warns of them, too."""

import grp
import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from stat import S_ISDIR

from daemon.agents.process.spec import program_of
from daemon.config.paths import state_dir
from daemon.config.schema import AgentexAgent, BaseAgent, Config, ProcessAgent, RemoteAgent
from daemon.config.secrets import read_secret
from daemon.config.values import Secret
from daemon.doctor.findings import Finding, error, warning
from daemon.errors import SecretError
from daemon.model import Overlap

_LONGEST_FIRST_LINE = 256  # bytes, as the kernel reads
_IF_MEANT = "change it in the config, unless it is meant"


def check_settings(
    config: Config,
    environment: Mapping[str, str] = os.environ,
    hides: Callable[[Path], bool] = lambda _: False,
    *,
    credentials: bool = True,
) -> Iterator[Finding]:
    """Find what of the config cannot work here, or not as it looks.

    `environment` is the daemon's, `hides` tells what it does not see; without `credentials` those of the service are
    left for its unit to tell.
    """
    for place, secret in secrets_of(config):
        if credentials or secret.source != "credential":
            yield from _secret(place, config, secret, environment)
    yield from _group(config.control.group)
    yield from _log_file(config)
    for name, agent in config.agents.items():
        place = f"agents.{name}"
        yield from _overlap(place, agent)
        if isinstance(agent, ProcessAgent):
            own = agent.env.get("PATH")
            path = own.value if own and own.source == "plain" else environment.get("PATH")
            yield from _program(place, config, agent.command, path, hides)
        if isinstance(agent, AgentexAgent) and agent.acp_type != "sync" and not agent.await_completion:
            what = "without await_completion a run ends at the acknowledgement; overlap cannot see its work"
            yield warning(place, what, _IF_MEANT)
        if isinstance(agent, AgentexAgent) and agent.await_completion and not _has_tcp(config):
            what = "without control.listen or public_url its hook_url leads to the socket of this host"
            yield warning(place, what, _IF_MEANT)
    for name, target in config.notify.items():
        if target.command is not None:
            yield from _program(f"notify.{name}", config, target.command, environment.get("PATH"), hides)


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


def _program(
    place: str, config: Config, command: list[str], path: str | None, hides: Callable[[Path], bool]
) -> Iterator[Finding]:
    program = program_of(command, config)
    found = shutil.which(program, path=path or os.environ.get("PATH"))
    if found is None and os.sep in program and os.path.isfile(program):  # noqa: PTH113 - as below
        yield error(f"{place}.command", f"{program} may not be executed", f"chmod +x {program}, if it is a program")
    elif found is None:
        what = f"{program!r} is not an executable program here"
        yield error(
            f"{place}.command", what, "install it, write its full path, or put its folder on the service's PATH"
        )
    elif (interpreter := _interpreter(found)) is not None and not os.access(interpreter, os.X_OK):
        what = f"the first line of {found} names {interpreter}, which is no program here"
        yield error(f"{place}.command", what, "correct that line, or install it")
    elif hidden := next((part for part in (found, interpreter) if part and _is_hidden(part, hides)), None):
        what = f"{hidden} is in a home, which ProtectHome= hides from the service"
        mend = "install it for all users (/usr/local/bin), or show its folder to the service (drop-ins/places.conf)"
        yield warning(f"{place}.command", what, mend)


def _is_hidden(program: str, hides: Callable[[Path], bool]) -> bool:
    return hides(Path(program).absolute()) or hides(Path(program).resolve())


def _interpreter(program: str) -> str | None:
    """Return what executes a program that is a script, as the kernel reads it (execve(2), Interpreter scripts)."""
    try:
        with Path(program).open("rb") as stream:
            first = stream.readline(_LONGEST_FIRST_LINE)
    except OSError:  # who may only execute it need not read it
        return None
    if not first.startswith(b"#!"):
        return None
    line = re.split(rb"[\n\0]", first[2:], maxsplit=1)[0].strip(b" \t")  # a carriage return is part of the name
    return os.fsdecode(re.split(rb"[ \t]", line, maxsplit=1)[0]) or None


def _log_file(config: Config) -> Iterator[Finding]:
    """Find a log file that the daemon cannot open, with which it does not start."""
    if config.log.file is None:
        return
    path = config.resolve(config.log.file)
    try:
        has_folder = S_ISDIR(path.parent.stat().st_mode)
    except PermissionError:  # nothing can be said from here
        has_folder = True
    except OSError:
        has_folder = False
    if not has_folder:
        yield error("log.file", f"there is no folder {path.parent}", "make it, or name another file")
    elif _is_ours(state_dir(config)) and not _can_be_written(path):
        yield error("log.file", f"{path} cannot be written", "give the daemon's user the right to, or name another")


def _is_ours(folder: Path) -> bool:
    """Tell whether we have the rights that the daemon of a state directory has, or would have."""
    try:
        return folder.stat().st_uid == os.geteuid()
    except FileNotFoundError:
        return os.access(folder.parent, os.W_OK)
    except OSError:
        return False


def _can_be_written(path: Path) -> bool:
    try:
        return not S_ISDIR(path.stat().st_mode) and os.access(path, os.W_OK)
    except FileNotFoundError:  # or a link to what is not there yet
        return os.access(path.resolve().parent, os.W_OK)
    except OSError:
        return False


def _secret(place: str, config: Config, secret: Secret, environment: Mapping[str, str]) -> Iterator[Finding]:
    name = place.rpartition(".")[2]
    try:
        read_secret(config, name, secret, environment)
    except SecretError as problem:
        if secret.source == "inherit":  # the daemon's environment may be another than the one we know
            what = "is not set, as far as can be seen from here"
            yield warning(place, what, "set it with Environment= of the service, or take it out of the config")
        else:
            what = str(problem).removeprefix(f"{name}: ")
            yield error(place, what, "put it there as a plain file that the daemon's user may read")
