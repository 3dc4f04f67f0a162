"""The current problems of the daemon, as status and health reports show them."""

from dataclasses import dataclass, field

from daemon.problems import Problems


@dataclass
class Health:
    """Current problems, worded for everybody who may see the status; empty while the daemon is healthy."""

    starting: bool = False
    """Whether the daemon waits for its database before it starts anything."""
    store: str = ""
    """Why the database cannot be written."""
    reload: str = ""
    """Why the last reload failed."""
    failing: Problems = field(default_factory=Problems)
    """What the parts of the daemon cannot do at the moment."""

    def problems(self, *, hint: bool = True) -> str:
        """Return all problems in one line; with a `hint` where to read more, unless that is where this is shown."""
        not_reloaded = f"config not reloaded ({self.reload}), see the log" if self.reload else ""
        parts = ", ".join(f"{part} ({count})" for part, count in self.failing.by_part().items())
        failing = f"errors in {parts}" + (", see `agentcron status`" if hint else "") if parts else ""
        waits = "starts are held back" if self.starting else ""
        return "; ".join(part for part in (waits, self.store, not_reloaded, failing) if part)
