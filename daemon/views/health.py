"""The current problems of the daemon, as status and health reports show them."""

from dataclasses import dataclass


@dataclass
class Health:
    """Current problems, worded for everybody who may see the status; empty while the daemon is healthy."""

    store: str = ""
    """Why the database cannot be written."""
    reload: str = ""
    """Why the last reload failed."""

    def problems(self) -> str:
        """Return all problems in one line."""
        not_reloaded = f"config not reloaded ({self.reload}), see the log" if self.reload else ""
        return "; ".join(part for part in (self.store, not_reloaded) if part)
