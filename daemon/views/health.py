"""The health of the daemon: the problems that keep it from doing what it should."""

from dataclasses import dataclass


@dataclass
class Health:
    """What is wrong now, in words for everybody who may see the status; empty while all is well."""

    store: str = ""
    """Why the database cannot be written."""
    reload: str = ""
    """Why the config file was not used when it was last read."""

    def problems(self) -> str:
        """Return all problems in one line."""
        not_reloaded = f"config not reloaded ({self.reload}), see the log" if self.reload else ""
        return "; ".join(part for part in (self.store, not_reloaded) if part)
