"""The commented config that `agentcron init` writes: the example that comes with agentcron."""

from importlib import resources
from pathlib import Path

_NAME = "config.example.toml"


def starter_config() -> str:
    """Return the example's text, from the installed package or from the source tree."""
    packaged = resources.files("daemon") / _NAME
    source = Path(__file__).parents[2] / _NAME
    return packaged.read_text("utf-8") if packaged.is_file() else source.read_text("utf-8")
