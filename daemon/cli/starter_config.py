"""The commented config that `agentcron init` writes: config.example.toml."""

from importlib import resources
from pathlib import Path

from daemon.config.loading import default_files

_NAME = "config.example.toml"


def starter_config(target: Path) -> str:
    """Return the text of the example, from the installed package or the source tree, adapted to the target file.

    In a default location of the config, the state also goes to its default location.
    """
    packaged = resources.files("daemon") / _NAME
    source = Path(__file__).parents[2] / _NAME
    text = packaged.read_text("utf-8") if packaged.is_file() else source.read_text("utf-8")
    return text.replace("\nstate_dir = ", "\n# state_dir = ") if target.absolute() in default_files() else text
