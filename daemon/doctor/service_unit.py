"""The systemd unit: that it is installed as it must be, and hands the daemon what the config asks for."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from daemon.config.loading import SYSTEM_FILE
from daemon.config.schema import Config, ProcessAgent
from daemon.doctor.findings import Finding, error, note, ok, warning
from daemon.doctor.settings import secrets_of

_UNIT = "agentcron.service"
_ASKED = (
    *("LoadState", "ActiveState", "NeedDaemonReload", "KillMode", "RemoveIPC", "Delegate"),
    *("Environment", "User", "ProtectHome", "BindPaths", "BindReadOnlyPaths"),
)
_CREDENTIAL = re.compile(r"^(?:(?:Load|Set)Credential(?:Encrypted)?|ImportCredential)\s*=\s*([^:\s]+)", re.MULTILINE)
_GIVEN = dict.fromkeys(("HOME", "LANG", "LOGNAME", "SHELL", "USER"), "")
"""What systemd itself puts into a service's environment (systemd.exec(5)), whatever is in it."""
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_PATIENCE = 10.0  # seconds
_NEW_UNIT = "install the unit that comes with agentcron (README, As a service), and systemctl daemon-reload"


@dataclass(frozen=True)
class Unit:
    """What systemd says of the unit."""

    properties: dict[str, str]
    text: str
    """Its file with its drop-ins."""

    @property
    def environment(self) -> dict[str, str]:
        """What it puts into the environment of the daemon and its agents; files with more are not looked into."""
        words = shlex.split(self.properties.get("Environment", ""))
        return {**_GIVEN, **dict(word.split("=", 1) for word in words if "=" in word)}

    @property
    def user(self) -> str | None:
        """The user that it runs as, None for root."""
        return self.properties.get("User") or None

    def hides(self, path: Path) -> bool:
        """Tell whether the daemon and its agents do not see a path (systemd.exec(5), ProtectHome= and BindPaths=)."""
        if self.properties.get("ProtectHome") not in {"yes", "tmpfs"}:
            return False
        bound = (self.properties.get(name, "").split() for name in ("BindPaths", "BindReadOnlyPaths"))
        shown = [_place_of(path) for paths in bound for path in paths]
        return _is_below(path, _HOMES) and not _is_below(path, shown)

    def loads(self, credential: str) -> bool:
        """Tell whether the unit hands over a credential; what `systemctl show` says of them cannot be printed."""
        return any(fnmatchcase(credential, name) for name in _CREDENTIAL.findall(self.text))


def _place_of(bound: str) -> Path:
    """Return where a path of BindPaths= is to be seen: `SOURCE[:PLACE[:OPTIONS]]`."""
    source, _, rest = bound.partition(":")
    return Path(rest.partition(":")[0] or source.removeprefix("-"))


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def find_unit(config: Config) -> Unit | None:
    """Return the unit that runs this config; None for a config that no unit of the host runs."""
    if config.file != SYSTEM_FILE or not Path("/run/systemd/system").exists() or shutil.which("systemctl") is None:
        return None
    shown = _systemctl("show", _UNIT, f"--property={','.join(_ASKED)}")
    properties = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return Unit(properties, _systemctl("cat", _UNIT)) if properties.get("LoadState") == "loaded" else None


def _systemctl(*arguments: str) -> str:
    """Return what systemctl prints, nothing if it does not answer."""
    try:
        done = subprocess.run(
            ["systemctl", *arguments],  # noqa: S607 - wherever systemd is
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def check_unit(config: Config, unit: Unit | None) -> Iterator[Finding]:
    """Find what of the unit would harm runs, and which credentials it does not load."""
    wanted = {secret.value: place for place, secret in secrets_of(config) if secret.source == "credential"}
    if unit is None:
        yield note("unit", f"no unit of the system is known to run {config.file}")
        if wanted:
            names = ", ".join(sorted(wanted))
            yield note("credentials", f"{names}: only the service's own unit can tell whether they are there")
        return
    yield from _check_properties(config, unit.properties)
    for name in sorted(name for name in wanted if not unit.loads(name)):
        mend = f"systemctl edit {_UNIT} with LoadCredential={name}:FILE, then restart it"
        yield error(wanted[name], f"the unit loads no credential {name!r}", mend)


def _check_properties(config: Config, properties: dict[str, str]) -> Iterator[Finding]:
    state = properties.get("ActiveState")
    if state == "active":
        yield ok("unit", f"{_UNIT} is active")
    elif state == "inactive":
        yield warning("unit", f"{_UNIT} is inactive", f"systemctl start {_UNIT}")
    else:
        yield error("unit", f"{_UNIT} is {state}", f"`journalctl -u {_UNIT}` says why; mend that, then systemctl start")
    if properties.get("NeedDaemonReload") == "yes":
        yield warning("unit", "its file was changed since systemd read it", "systemctl daemon-reload")
    if properties.get("KillMode") != "process":
        kill_mode = properties.get("KillMode")
        yield error("unit", f"KillMode={kill_mode}: a restart of the daemon would end all running agents", _NEW_UNIT)
    if properties.get("RemoveIPC") == "yes":
        yield error("unit", "RemoveIPC=yes: a restart would take the shared memory of all running agents", _NEW_UNIT)
    limited = [name for name, agent in config.agents.items() if isinstance(agent, ProcessAgent) and _has_limit(agent)]
    if properties.get("Delegate") != "yes" and limited:
        what = f"without Delegate=yes memory_max and cpu_quota of {', '.join(limited)} do not hold"
        yield error("unit", what, _NEW_UNIT)


def _has_limit(agent: ProcessAgent) -> bool:
    return agent.memory_max is not None or agent.cpu_quota is not None
