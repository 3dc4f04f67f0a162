"""Read secret values when a run needs them; they are stored nowhere."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.config.schema import AcpAgent, Config, ProcessAgent, RemoteAgent, Token
from daemon.config.values import Secret
from daemon.errors import ConfigError, SecretError

_LARGEST = 64 * 1024
_SHORTEST_TOKEN = 20


@dataclass(frozen=True)
class Resolved:
    """The environment variables of a run by name, and the values among them that must never be shown."""

    values: dict[str, str]
    hidden: tuple[str, ...]


def secrets_of(config: Config) -> Iterator[tuple[str, Secret]]:
    """Yield the tokens of the control API and the secrets of agents and targets, each with its key path."""
    for token in config.control.tokens:
        yield f"control.tokens.{token.name}", token.secret
    for name, agent in config.agents.items():
        if isinstance(agent, ProcessAgent):
            yield from ((f"agents.{name}.env.{variable}", secret) for variable, secret in agent.env.items())
        for server, keys in agent.mcp_servers.items() if isinstance(agent, AcpAgent) else ():
            for table, secrets in (("env", keys.env), ("headers", keys.headers)):
                place = f"agents.{name}.mcp_servers.{server}.{table}"
                yield from ((f"{place}.{key}", secret) for key, secret in secrets.items())
        if isinstance(agent, RemoteAgent) and agent.api_key is not None:
            yield f"agents.{name}.api_key", agent.api_key
    for name, target in config.notify.items():
        if target.apprise is not None:
            yield f"notify.{name}.apprise", target.apprise


def resolve_environment(
    config: Config, env: Mapping[str, Secret], environment: Mapping[str, str] = os.environ
) -> Resolved:
    """Read all values of an agent's `env`; raise SecretError for the first that cannot be read."""
    values: dict[str, str] = {}
    hidden = []
    for name, secret in env.items():
        value = values[name] = read_secret(config, name, secret, environment)
        if secret.is_hidden and value:
            hidden.append(value)
    return Resolved(values, tuple(hidden))


def read_secret(config: Config, name: str, secret: Secret, environment: Mapping[str, str] = os.environ) -> str:
    """Return a secret's value without its final newline; raise SecretError if it cannot be read."""
    match secret.source:
        case "plain":
            return secret.value
        case "inherit":
            if name not in environment:
                raise SecretError(
                    f"{name}: is not set in the daemon's environment, so it cannot be inherited; "
                    "set it there (Environment= of the service), or give a value"
                )
            return environment[name]
        case "file":
            return _read(name, config.resolve(Path(secret.value)))
        case "credential":
            folder = environment.get("CREDENTIALS_DIRECTORY")
            if not folder:
                raise SecretError(
                    f"{name}: credential {secret.value!r} is not available: $CREDENTIALS_DIRECTORY is not set; "
                    "add LoadCredential= to the service and restart it (a reload is not enough), or name a file "
                    'instead: file = "PATH"'
                )
            if not os.path.lexists(Path(folder) / secret.value):
                raise SecretError(
                    f"{name}: the daemon was started without the credential {secret.value!r}: add LoadCredential= to "
                    "the service if it is not there, and restart it (a reload is not enough)"
                )
            return _read(name, Path(folder) / secret.value)


def read_token(config: Config, token: Token, environment: Mapping[str, str] = os.environ) -> str:
    """Return a token of the control API; raise ConfigError if it cannot be used."""
    where = f"{config.file}: control.tokens: {token.name}"
    try:
        value = read_secret(config, where, token.secret, environment).strip()
    except SecretError as error:
        raise ConfigError([str(error)]) from None
    if len(value) < _SHORTEST_TOKEN or not value.isascii() or not value.isprintable() or " " in value:
        problem = f"{where}: a token must have at least {_SHORTEST_TOKEN} ASCII characters and no spaces"
        target = f" >{config.resolve(Path(token.secret.value))}" if token.secret.source == "file" else ""
        raise ConfigError([f"{problem}; make one with: head -c 32 /dev/urandom | base64{target}"])
    return value


def _read(name: str, path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # do not wait for the writer of a FIFO
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SecretError(f"{name}: {path} is not a regular file")
            data = os.pread(descriptor, _LARGEST + 1, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SecretError(f"{name}: cannot read {path}: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise SecretError(f"{name}: {path} is larger than {_LARGEST // 1024} KiB")
    try:
        value = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SecretError(f"{name}: {path} is not UTF-8 text") from None
    if "\0" in value:
        raise SecretError(f"{name}: {path} contains a NUL character, which an environment variable cannot")
    return value
