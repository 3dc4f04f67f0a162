"""The commented config that `agentcron init` writes: the example that comes with agentcron."""

from importlib import resources
from pathlib import Path

from daemon.config.loading import standard_files

_NAME = "config.example.toml"


def starter_config(target: Path) -> str:
    """Return the example's text, from the installed package or from the source tree, as it fits the target file.

    Where agentcron looks for its config by itself, the state belongs into its standard place, too.
    """
    packaged = resources.files("daemon") / _NAME
    source = Path(__file__).parents[2] / _NAME
    text = packaged.read_text("utf-8") if packaged.is_file() else source.read_text("utf-8")
    return text.replace("\nstate_dir = ", "\n# state_dir = ") if target.absolute() in standard_files() else text
