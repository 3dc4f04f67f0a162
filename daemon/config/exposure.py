"""Find out whether others can change the config, or read the secrets that it names."""

import grp
import os
import pwd
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG

from daemon.config.file_access import FileAccess, Insiders, Subject, visible_places_of
from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.config.secrets import secrets_of
from daemon.config.values import APPRISE, Secret
from daemon.model import HOOK_KEY
from daemon.path_owners import group_name

_SECRET_NAME = re.compile(r"(?:^|_)(?:KEY|APIKEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE)$", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"[a-z+]+://[^/@:]*:[^/@]+@", re.IGNORECASE)
_ETC = Path("/etc")
_OF_THE_HOST = tuple(map(Path, ("/bin", "/boot", "/dev", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")))
_ANOTHER = "use another file, which holds nothing but this secret, and name it without links of others"
_MOVE = 'move it to a file: { credential = "NAME" } or { file = "PATH" }'


@dataclass(frozen=True)
class Exposure:
    """Something that is open to others, and how to close it."""

    about: str
    """A key path of the config, or the file it belongs to."""

    what: str
    fix: str
    is_certain: bool = True
    """False if the config does not say whether a value is a secret."""


def daemon_user(config: Config) -> int | None:
    """Return the uid that the daemon of a config runs as: the owner of its state, or we; None if it is not known."""
    try:
        return state_dir(config).stat().st_uid
    except FileNotFoundError:
        return os.geteuid() or None  # root may start a daemon as anybody
    except OSError:
        return None


def find_exposures(config: Config, user: int | None, environment: Mapping[str, str] = os.environ) -> Iterator[Exposure]:
    """Yield what others can change or read: others than root, members of its group, and the daemon's user.

    Files that do not exist, or that we cannot see, are left out. `environment` is the daemon's.
    """
    files = SecretFiles(config, user)
    yield from files.check_config()
    for about, secret in secrets_of(config):
        path = _file_of(config, secret, environment)
        if path is not None:
            yield from files.check(about, path)
    yield from files.check("hooks", state_dir(config) / HOOK_KEY)
    yield from files.check_values()


def _file_of(config: Config, secret: Secret, environment: Mapping[str, str]) -> Path | None:
    if secret.source == "file":
        return config.resolve(Path(secret.value))
    folder = environment.get("CREDENTIALS_DIRECTORY")
    return Path(folder) / secret.value if secret.source == "credential" and folder else None


class SecretFiles:
    """Checks the config and files with secrets, each of them once."""

    def __init__(self, config: Config, user: int | None) -> None:
        """Regard as others everybody but root and the user of the daemon, and those for whom the socket is."""
        self._config = config
        self._user = user
        self._insiders = Insiders(user, _group_of(config.control.group))
        self._access = FileAccess(self._insiders)
        self._read: set[Path] = set()

    def check_config(self) -> Iterator[Exposure]:
        """Yield who can change the config."""
        file = self._config.file
        yield from self._writers("config", file, "whoever changes the config can run any command as the daemon's user")

    def check(self, about: str, path: Path) -> Iterator[Exposure]:
        """Yield who can read a secret from its regular file, or replace it."""
        if path in self._read or _is_something_else(path):  # which whoever reads the secrets reports
            return
        self._read.add(path)
        for subject in self._access.readers(path):
            what = f"{path} contains a secret, and {self._insiders.describe(subject)} can read it"
            yield Exposure(about, what, self._stop_reading(path, subject))
        for exposure in self._writers(about, path, "whoever can do so knows the secret that is in force"):
            yield replace(exposure, fix=_ANOTHER) if self._is_foreign(path) else exposure

    def check_values(self) -> Iterator[Exposure]:
        """Yield secrets in the config itself that others can read."""
        for subject in self._access.readers(self._config.file):
            who = f"{self._insiders.describe(subject)} can read the config"
            for about, secret in secrets_of(self._config):
                if secret.source == "plain" and about.endswith(".api_key"):
                    yield Exposure(about, f"is in the config as a plain string, and {who}", _MOVE)
                elif secret.source == "plain" and looks_secret(about.rpartition(".")[2], secret.value):
                    what = f"looks like a secret, is in the config as a plain string, and {who}"
                    yield Exposure(about, what, _MOVE, is_certain=False)
            for about, url, fix in _urls(self._config):
                if _PASSWORD_IN_URL.match(url):
                    yield Exposure(about, f"contains a password, and {who}", fix)

    def _writers(self, about: str, path: Path, why: str) -> Iterator[Exposure]:
        for place, subject in self._access.writers(path):
            what = f"{self._insiders.describe(subject)} can write or replace {place}; {why}"
            yield Exposure(about, what, self._stop_writing(place, subject))

    def _stop_reading(self, path: Path, subject: Subject) -> str:
        file = Path(os.path.realpath(path))
        if self._is_foreign(path):
            return _ANOTHER
        quoted = shlex.quote(str(file))
        without = f"setfacl -b {quoted} && " if self._access.has_acl(file) else ""
        group = _group_of_user(self._user)
        if group is None or self._user is None or self._access.is_owner(file, self._user):
            return f"{without}chmod 0600 {quoted}"
        if subject.group == group:
            return f"give these people another group than {group_name(group)} (README, Upgrade)"
        return f"{without}chown root:{shlex.quote(group_name(group))} {quoted} && chmod 0640 {quoted}"

    def _is_foreign(self, path: Path) -> bool:
        """Return whether a file is one of the host's own, or others than root have chosen it by a link.

        Its owner and mode are not for us to change.
        """
        file = Path(os.path.realpath(path))
        if file.parent == _ETC or any(file.is_relative_to(folder) for folder in _OF_THE_HOST):
            return True
        return any(place.is_symlink() and not self._access.is_owner(place, 0) for place in visible_places_of(path))

    def _stop_writing(self, place: Path, subject: Subject) -> str:
        quoted = shlex.quote(str(place))
        if subject.user is not None and self._access.is_owner(place, subject.user):
            return f"chown -h root {quoted}"
        if self._access.has_acl(place):
            return f"setfacl -b {quoted} && chmod go-w {quoted}"
        return f"chmod {'o' if subject.group is None else 'go'}-w {quoted}"


def _is_something_else(path: Path) -> bool:
    """Return whether something exists at a path, as far as we can see, that is no regular file."""
    try:
        return not S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _group_of(name: str | None) -> int | None:
    try:
        return None if name is None else grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _group_of_user(user: int | None) -> int | None:
    """Return the gid of a user's own group; None if there is no such user."""
    try:
        return None if user is None else pwd.getpwuid(user).pw_gid
    except KeyError:
        return None


def looks_secret(name: str, value: str) -> bool:
    """Tell whether the value of a variable is probably a secret, not a path or a setting."""
    return bool(value) and not value.startswith("/") and _SECRET_NAME.search(name) is not None


def _urls(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield the URLs in a config that may hold a password, each with its key path and where to move it."""
    for name, environment in config.environments.items():
        if environment.repository is not None:
            fix = "use an SSH key, or a credential helper in the git configuration of the daemon's user"
            yield f"environments.{name}.repository", environment.repository, fix
    for name, target in config.notify.items():
        for key, url in (("url", target.url), ("ping", target.ping)):
            if url is not None and url.startswith(APPRISE):
                fix = 'move it without "apprise:" to a file: apprise = { file = "PATH" } instead of url'
                yield f"notify.{name}.{key}", url.removeprefix(APPRISE), fix
            elif url is not None:
                yield f"notify.{name}.{key}", url, "use a command that reads the password from a file of its own"
