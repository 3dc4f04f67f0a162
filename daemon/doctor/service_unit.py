"""Check the systemd unit: that it is installed correctly, and loads the credentials that the config names."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from daemon.config.exposure import SecretFiles, daemon_user, looks_secret
from daemon.config.loading import SYSTEM_FILE
from daemon.config.schema import Config, ProcessAgent
from daemon.config.secrets import secrets_of
from daemon.doctor.findings import Finding, error, note, ok, warning

_UNIT = "agentcron.service"
_PROPERTIES = (
    *("LoadState", "ActiveState", "MainPID", "NeedDaemonReload", "KillMode", "RemoveIPC", "Delegate"),
    *("Environment", "User", "ProtectHome", "BindPaths", "BindReadOnlyPaths"),
)
_CREDENTIAL = re.compile(r"^(?:(?:Load|Set)Credential(?:Encrypted)?|ImportCredential)\s*=\s*([^:\s]+)", re.MULTILINE)
_PLAIN_CREDENTIAL = re.compile(r"^SetCredential\s*=\s*([^:\s]+)", re.MULTILINE)
_SECRET_FILE = re.compile(r"^(?:LoadCredential\s*=\s*[^:\s]+:|EnvironmentFile\s*=\s*-?)(/\S+)", re.MULTILINE)
_SET_BY_SYSTEMD = dict.fromkeys(("HOME", "LANG", "LOGNAME", "SHELL", "USER"), "")
"""Variables that systemd itself sets for a service (systemd.exec(5)); their values do not matter here."""
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_GIVEN = b"CREDENTIALS_DIRECTORY="
_TIMEOUT = 10.0  # seconds
_INSTALL_UNIT = "install the unit that comes with agentcron (README, As a service), then `systemctl daemon-reload`"


@dataclass(frozen=True)
class Unit:
    """The unit as systemd knows it."""

    properties: dict[str, str]
    text: str
    """The text of the unit file and its drop-ins."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables it sets for the daemon and its agents, without those from EnvironmentFile=."""
        words = shlex.split(self.properties.get("Environment", ""))
        return {**_SET_BY_SYSTEMD, **dict(word.split("=", 1) for word in words if "=" in word)}

    @property
    def user(self) -> str | None:
        """The user the service runs as, None for root."""
        return self.properties.get("User") or None

    def hides(self, path: Path) -> bool:
        """Tell whether the unit hides a path from the daemon and its agents (ProtectHome= and BindPaths=)."""
        if self.properties.get("ProtectHome") not in {"yes", "tmpfs"}:
            return False
        bound = (self.properties.get(name, "").split() for name in ("BindPaths", "BindReadOnlyPaths"))
        shown = [_mount_point(path) for paths in bound for path in paths]
        return _is_below(path, _HOMES) and not _is_below(path, shown)

    def lacks(self, credential: str) -> bool:
        """Tell whether the running daemon certainly was not given a credential when it started."""
        process = Path("/proc") / self.properties.get("MainPID", "0")
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            given = next((entry for entry in environment if entry.startswith(_GIVEN)), None)
            if given is None:
                return True
            folder = Path(os.fsdecode(given.removeprefix(_GIVEN)).lstrip("/"))
            return credential not in {found.name for found in (process / "root" / folder).iterdir()}
        except OSError:  # it is not running, or we may not look
            return False

    def loads(self, credential: str) -> bool:
        """Tell whether the unit loads a credential; read from its text, since `systemctl show` does not print them."""
        return any(fnmatchcase(credential, name) for name in _CREDENTIAL.findall(self.text))


def _mount_point(bound: str) -> Path:
    """Return where an entry of BindPaths= is mounted: `SOURCE[:PLACE[:OPTIONS]]`."""
    source, _, rest = bound.partition(":")
    return Path(rest.partition(":")[0] or source.removeprefix("-"))


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def find_unit(config: Config) -> Unit | None:
    """Return the systemd unit that uses this config, None if there is none."""
    if config.file != SYSTEM_FILE or not Path("/run/systemd/system").exists() or shutil.which("systemctl") is None:
        return None
    shown = _systemctl("show", _UNIT, f"--property={','.join(_PROPERTIES)}")
    properties = dict(line.split("=", 1) for line in shown.split("\n") if "=" in line)
    return Unit(properties, _systemctl("cat", _UNIT)) if properties.get("LoadState") == "loaded" else None


def _systemctl(*arguments: str) -> str:
    """Return what systemctl prints, an empty string if it fails."""
    try:
        done = subprocess.run(
            ["systemctl", *arguments],  # noqa: S607 - wherever systemd is
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def check_unit(config: Config, unit: Unit | None) -> Iterator[Finding]:
    """Find settings of the unit that would harm runs, and credentials that it does not load."""
    wanted = {secret.value: place for place, secret in secrets_of(config) if secret.source == "credential"}
    if unit is None:
        yield note("unit", f"no systemd unit uses {config.file}")
        if wanted:
            names = ", ".join(sorted(wanted))
            yield note("credentials", f"not checked: {names}; credentials exist only inside a service")
        return
    yield from _check_properties(config, unit.properties)
    yield from _check_secrets(config, unit, wanted)
    for name in sorted(name for name in wanted if not unit.loads(name)):
        fix = f"add LoadCredential={name}:FILE with `systemctl edit {_UNIT}`, then restart it"
        yield error(wanted[name], f"the unit does not load the credential {name!r}", fix)
    for name in sorted(name for name in wanted if unit.loads(name) and unit.lacks(name)):
        what = f"the daemon has not got the credential {name!r}: it has been running since before the unit loaded it"
        yield error(wanted[name], what, f"`systemctl restart {_UNIT}`; a reload is not enough")


def _check_secrets(config: Config, unit: Unit, wanted: Mapping[str, str]) -> Iterator[Finding]:
    """Find secrets that the unit has from files that others can read, or itself contains."""
    files = SecretFiles(config, daemon_user(config))
    for path in _SECRET_FILE.findall(unit.text):
        for exposure in files.check("unit", Path(path)):
            yield error(exposure.about, exposure.what, exposure.fix)
    for name in _PLAIN_CREDENTIAL.findall(unit.text):
        if name in wanted:
            what = f"SetCredential= contains {name!r}, and everybody can read the unit with `systemctl cat`"
            yield error(wanted[name], what, f"move it to a file of root: LoadCredential={name}:FILE")
    for about, secret in secrets_of(config):
        name = about.rpartition(".")[2]
        if secret.source == "inherit" and looks_secret(name, unit.environment.get(name, "")):
            what = "looks like a secret, and everybody can read the unit's Environment= with `systemctl show`"
            yield warning(about, what, f"use LoadCredential= and {{ credential = NAME }} instead of {name}=")


def _check_properties(config: Config, properties: dict[str, str]) -> Iterator[Finding]:
    state = properties.get("ActiveState")
    if state == "active":
        yield ok("unit", f"{_UNIT} is active")
    elif state == "inactive":
        yield warning("unit", f"{_UNIT} is inactive", f"systemctl start {_UNIT}")
    else:
        yield error(
            "unit",
            f"{_UNIT} is {state}",
            f"find the cause with `journalctl -u {_UNIT}`, fix it, then `systemctl start {_UNIT}`",
        )
    if properties.get("NeedDaemonReload") == "yes":
        yield warning("unit", "the unit file has changed since systemd loaded it", "systemctl daemon-reload")
    if properties.get("KillMode") != "process":
        kill_mode = properties.get("KillMode")
        yield error(
            "unit", f"KillMode={kill_mode}: a restart of the daemon would kill all running agents", _INSTALL_UNIT
        )
    if properties.get("RemoveIPC") == "yes":
        yield error(
            "unit", "RemoveIPC=yes: a restart would delete the shared memory of all running agents", _INSTALL_UNIT
        )
    processes = {name: agent for name, agent in config.agents.items() if isinstance(agent, ProcessAgent)}
    limited = [name for name, agent in processes.items() if agent.needed_controllers]
    if properties.get("Delegate") != "yes" and limited:
        what = f"memory_max, cpu_quota, tasks_max of {', '.join(limited)} are not enforced: the unit lacks Delegate=yes"
        yield error("unit", what, _INSTALL_UNIT)
