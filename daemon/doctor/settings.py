"""Check for settings that are probably mistakes, or that name something missing; `check` warns of them too."""

import grp
import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from shlex import quote
from stat import S_ISDIR, S_ISFIFO

from daemon.agents.process.spec import program_of
from daemon.config.exposure import daemon_user, find_exposures
from daemon.config.paths import state_dir
from daemon.config.schema import AcpAgent, AgentexAgent, Config, ProcessAgent, Token
from daemon.config.secrets import read_secret, read_token, secrets_of
from daemon.config.values import Secret
from daemon.doctor.findings import Finding, error, warning
from daemon.errors import ConfigError, SecretError
from daemon.regular_file import open_regular
from daemon.schedules.surprise import IF_INTENDED
from daemon.schedules.surprises import find_surprises

_LONGEST_FIRST_LINE = 256  # bytes, as the kernel reads
_PROVIDE = "provide it as a regular file that the daemon's user can read"


def check_settings(
    config: Config,
    environment: Mapping[str, str] = os.environ,
    hides: Callable[[Path], bool] = lambda _: False,
    *,
    credentials: bool = True,
) -> Iterator[Finding]:
    """Find settings that cannot work on this host, or do not do what they seem to.

    `environment` is the daemon's; `hides` tells which paths the unit hides from it. Without `credentials`, systemd
    credentials are left to the check of the unit.
    """
    for exposure in find_exposures(config, daemon_user(config), environment):
        yield (error if exposure.is_certain else warning)(exposure.about, exposure.what, exposure.fix)
    yield from _secrets(config, environment, credentials=credentials)
    yield from _group(config.control.group)
    yield from _log_file(config)
    for name, agent in config.agents.items():
        place = f"agents.{name}"
        if isinstance(agent, ProcessAgent):
            own = agent.env.get("PATH")
            path = own.value if own and own.source == "plain" else environment.get("PATH")
            for key, command in _commands(place, agent):
                yield from _program(key, config, command, path, hides)
        if isinstance(agent, AgentexAgent) and agent.acp_type != "sync" and not agent.await_completion:
            what = (
                "without await_completion a run ends when the event is acknowledged; overlap ignores the work after it"
            )
            yield warning(place, what, IF_INTENDED)
        if isinstance(agent, AgentexAgent) and agent.await_completion and not _has_tcp(config):
            what = (
                "without control.listen or control.public_url, hook_url is a Unix socket that only this host can reach"
            )
            yield warning(place, what, IF_INTENDED)
    for surprise in find_surprises(config):
        yield warning(surprise.about, surprise.what, surprise.fix)
    for place, command in _own_commands(config):
        yield from _program(place, config, command, environment.get("PATH"), hides)


def _own_commands(config: Config) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands that the daemon itself runs, with their places in the config."""
    for name, target in config.notify.items():
        if target.command is not None:
            yield f"notify.{name}.command", target.command
    for name, pool in config.pools.items():
        if pool.probe is not None:
            yield f"pools.{name}.probe", pool.probe


def _commands(place: str, agent: ProcessAgent) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of an agent, with their places in the config."""
    yield f"{place}.command", agent.words
    if agent.expect.command is not None:
        yield f"{place}.expect.command", agent.expect.command
    for name, server in agent.mcp_servers.items() if isinstance(agent, AcpAgent) else ():
        if server.command is not None:
            yield f"{place}.mcp_servers.{name}.command", server.command


def _group(name: str | None) -> Iterator[Finding]:
    """Find a group to which the daemon cannot assign its socket; chown(2) allows only groups of the process."""
    if name is None:
        return
    try:
        group = grp.getgrnam(name).gr_gid
    except KeyError:
        yield error(
            "control.group", f"group {name!r} does not exist", f"`groupadd {quote(name)}`, or name another group"
        )
        return
    if os.geteuid() != 0 and group not in {os.getegid(), *os.getgroups()}:
        user = pwd.getpwuid(os.geteuid()).pw_name
        what = f"{user} is not in the group {name!r}, so the daemon cannot assign its socket to it"
        yield error("control.group", what, f"`usermod -aG {quote(name)} {user}`, then restart the daemon")


def _has_tcp(config: Config) -> bool:
    return config.control.listen is not None or config.control.public_url is not None


def _program(
    place: str, config: Config, command: list[str], path: str | None, hides: Callable[[Path], bool]
) -> Iterator[Finding]:
    program = program_of(command, config)
    found = shutil.which(program, path=path or os.environ.get("PATH"))
    if found is None and os.sep in program and os.path.isfile(program):  # noqa: PTH113 - as below
        yield error(place, f"{program} is not executable", f"`chmod +x {quote(program)}`, if it is a program")
    elif found is None:
        what = f"no executable program {program!r} found"
        yield error(place, what, "install it, write its full path, or add its directory to the PATH of the service")
    elif not os.path.isfile(found):  # noqa: PTH113 - as above
        fix = "name a program; a pipe or device would block the run"
        yield error(place, f"{found} is not a regular file", fix)
    elif (interpreter := _interpreter(found)) is not None and not _is_program(interpreter):
        what = f"the first line of {found} names {interpreter}, which is not an executable program"
        yield error(place, what, "correct that line, or install the interpreter")
    elif interpreter is None and _is_text(found):
        what = f"{found} has no first line with #!, so it cannot be started: cron would pass it to a shell"
        yield error(place, what, "begin it with a line that names its interpreter, such as #!/bin/sh")
    elif hidden := next((part for part in (found, interpreter) if part and _is_hidden(part, hides)), None):
        what = f"{hidden} is in a home directory, which ProtectHome= hides from the service"
        fix = "install it for all users (/usr/local/bin), or expose its directory to the service (drop-ins/places.conf)"
        yield warning(place, what, fix)


def _is_hidden(program: str, hides: Callable[[Path], bool]) -> bool:
    return hides(Path(program).absolute()) or hides(Path(program).resolve())


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)  # noqa: PTH113 - false, not an error, for an odd name


def _interpreter(program: str) -> str | None:
    """Return the interpreter of a script as the kernel reads it (execve(2)), None if it is not a script."""
    first = _beginning(program)
    if first is None or not first.startswith(b"#!"):
        return None
    line = re.split(rb"[\n\0]", first[2:], maxsplit=1)[0].strip(
        b" \t"
    )  # the kernel takes a carriage return as part of the name
    return os.fsdecode(re.split(rb"[ \t]", line, maxsplit=1)[0]) or None


def _is_text(program: str) -> bool:
    """Return whether a file is certainly no binary program; others may be started by binfmt_misc."""
    first = _beginning(program)
    return first is not None and not first.startswith(b"#!") and b"\0" not in first


def _beginning(program: str) -> bytes | None:
    """Return the first bytes of a file, None if we may not read it."""
    try:
        descriptor = open_regular(Path(program))
    except OSError:
        return None
    try:
        return os.pread(descriptor, _LONGEST_FIRST_LINE, 0)
    finally:
        os.close(descriptor)


def _log_file(config: Config) -> Iterator[Finding]:
    """Find a log file that the daemon could not open, so that it would not start."""
    if config.log.file is None:
        return
    path = config.resolve(config.log.file)
    try:
        has_folder = S_ISDIR(path.parent.stat().st_mode)
    except PermissionError:  # we cannot tell
        has_folder = True
    except OSError:
        has_folder = False
    if not has_folder:
        yield error("log.file", f"directory {path.parent} does not exist", "create it, or name another file")
    elif _is_pipe(path):
        yield warning("log.file", f"{path} is a pipe; lines are lost while nobody reads it", "name a regular file")
    elif _have_daemons_rights(state_dir(config)) and not _is_writable(path):
        yield error("log.file", f"cannot write {path}", "give the daemon's user write permission, or name another file")


def _is_pipe(path: Path) -> bool:
    try:
        return S_ISFIFO(path.stat().st_mode)
    except OSError:  # there is none yet, or we cannot tell
        return False


def _have_daemons_rights(folder: Path) -> bool:
    """Tell whether we run as the user that the daemon of a state directory runs as, or would."""
    try:
        return folder.stat().st_uid == os.geteuid()
    except FileNotFoundError:
        return os.access(folder.parent, os.W_OK)
    except OSError:
        return False


def _is_writable(path: Path) -> bool:
    try:
        return not S_ISDIR(path.stat().st_mode) and os.access(path, os.W_OK)
    except FileNotFoundError:  # or a link to a file that does not exist yet
        return os.access(path.resolve().parent, os.W_OK)
    except OSError:
        return False


def _secrets(config: Config, environment: Mapping[str, str], *, credentials: bool) -> Iterator[Finding]:
    for place, secret in secrets_of(config):
        if credentials or secret.source != "credential":
            yield from _secret(place, config, secret, environment)
    for token in config.control.tokens:
        yield from _token(config, token, environment)


def _secret(place: str, config: Config, secret: Secret, environment: Mapping[str, str]) -> Iterator[Finding]:
    if secret.source == "file" and _is_closed_to_us(config.resolve(Path(secret.value))):
        if _have_daemons_rights(state_dir(config)):
            yield error(place, f"cannot read {config.resolve(Path(secret.value))}: Permission denied", _PROVIDE)
        return
    name = place.rpartition(".")[2]
    try:
        read_secret(config, name, secret, environment)
    except SecretError as problem:
        if secret.source == "inherit":  # the daemon's environment may differ from ours
            what = "is not set in this environment; that of the daemon may differ"
            yield warning(place, what, "set it with Environment= of the service, or remove it from the config")
        else:
            what = str(problem).removeprefix(f"{name}: ")
            yield error(place, what, _PROVIDE)


def _token(config: Config, token: Token, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Find a token that can be read, but that the daemon does not accept."""
    try:
        read_secret(config, token.name, token.secret, environment)
    except SecretError:
        return  # reported with the other secrets
    try:
        read_token(config, token, environment)
    except ConfigError as problem:
        place = f"control.tokens.{token.name}"
        what, _, fix = str(problem).removeprefix(f"{config.file}: control.tokens: {token.name}: ").partition("; ")
        yield error(place, what, fix)


def _is_closed_to_us(path: Path) -> bool:
    """Tell whether a file may be one that only others can read, such as the daemon."""
    try:
        return path.exists() and not os.access(path, os.R_OK)
    except PermissionError:
        return True
    except OSError:  # nothing can have such a name
        return False
