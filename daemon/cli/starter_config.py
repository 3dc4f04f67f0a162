"""The commented config that `agentcron init` writes: config.example.toml, with the agent of a recipe if one is named.

A recipe is a tested part of a config that runs a known program, in a file of its own; the README shows it as well.
"""

import grp
from importlib import resources
from pathlib import Path

from daemon.config.loading import SYSTEM_FILE, default_files

_NAME = "config.example.toml"
_RECIPES = "recipes"
_HELLO, _AFTER_HELLO = "# A first agent:", "# An agent with all its settings."
"""How the parts of the example begin that a recipe replaces, and that follow it."""
_PEOPLE = "agentcron-users"  # the group that agentcron.sysusers creates


def starter_config(target: Path, recipe: str | None = None) -> str:
    """Return the text of the example, from the installed package or the source tree, adapted to the target file.

    Its first agent is that of the recipe, if there is one; raise LookupError if there is none of that name.

    In a default location of the config, which is that of a service, the state also goes to its default location, the
    first schedule starts once a day, and history is deleted after 30 days. In that of the host, the control socket
    belongs to the group for people, if the host has it.
    """
    packaged = resources.files("daemon") / _NAME
    source = Path(__file__).parents[2] / _NAME
    text = packaged.read_text("utf-8") if packaged.is_file() else source.read_text("utf-8")
    if recipe is not None:
        before, _, rest = text.partition(_HELLO)
        text = f"{before}{_recipe(recipe)}\n{_AFTER_HELLO}{rest.partition(_AFTER_HELLO)[2]}"
    if target.absolute() in default_files():
        text = text.replace("\nstate_dir = ", "\n# state_dir = ")
        text = text.replace('\nevery = "5s"\n', '\ncron = "0 7 * * *"\n')
        text = text.replace("\n# [retention]\n# days = 30  ", "\n[retention]\ndays = 30    ")
    if target.absolute() == SYSTEM_FILE and _has_group(_PEOPLE):
        text = text.replace("\n# [control]", "\n[control]  ")
        text = text.replace(f'\n# group = "{_PEOPLE}"', f'\ngroup = "{_PEOPLE}"  ')
    return text


def _recipe(name: str) -> str:
    files = resources.files("daemon.cli") / _RECIPES
    known = sorted(file.name.removesuffix(".toml") for file in files.iterdir())
    if name not in known:
        raise LookupError(f"there is no recipe for {name!r}, but for {', '.join(known)}")
    return (files / f"{name}.toml").read_text("utf-8")


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True
