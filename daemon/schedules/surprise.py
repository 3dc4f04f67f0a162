"""A setting that is valid, but probably does not do what it was set for."""

from dataclasses import dataclass

IF_INTENDED = "change it, unless it is intended"


@dataclass(frozen=True)
class Surprise:
    """A setting that probably does not do what it was set for."""

    about: str
    """A key path of the config."""
    what: str
    fix: str = IF_INTENDED

    def __str__(self) -> str:
        """Return a sentence for people, without the fix."""
        return f"{self.about}: {self.what}"
