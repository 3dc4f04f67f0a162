"""The commented config that `agentcron init` writes: config.example.toml."""

import grp
from importlib import resources
from pathlib import Path

from daemon.config.loading import SYSTEM_FILE, default_files

_NAME = "config.example.toml"
_PEOPLE = "agentcron-users"  # the group that agentcron.sysusers creates


def starter_config(target: Path) -> str:
    """Return the text of the example, from the installed package or the source tree, adapted to the target file.

    In a default location of the config, which is that of a service, the state also goes to its default location, the
    first schedule starts once a day, and history is deleted after 30 days. In that of the host, the control socket
    belongs to the group for people, if the host has it.
    """
    packaged = resources.files("daemon") / _NAME
    source = Path(__file__).parents[2] / _NAME
    text = packaged.read_text("utf-8") if packaged.is_file() else source.read_text("utf-8")
    if target.absolute() in default_files():
        text = text.replace("\nstate_dir = ", "\n# state_dir = ")
        text = text.replace('\nevery = "5s"\n', '\ncron = "0 7 * * *"\n')
        text = text.replace("\n# [retention]\n# days = 30  ", "\n[retention]\ndays = 30    ")
    if target.absolute() == SYSTEM_FILE and _has_group(_PEOPLE):
        text = text.replace("\n# [control]", "\n[control]  ")
        text = text.replace(f'\n# group = "{_PEOPLE}"', f'\ngroup = "{_PEOPLE}"  ')
    return text


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True
