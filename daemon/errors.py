"""What can go wrong in ways that a person should read about without a traceback."""


class AgentcronError(Exception):
    """An expected failure; its text says what is wrong and how to mend it."""

    exit_status = 1


class ConfigError(AgentcronError):
    """The config file cannot be used; `problems` holds one line for each thing that is wrong."""

    exit_status = 2

    def __init__(self, problems: list[str], line: int | None = None) -> None:
        """Hold what is wrong, and the line from which on the file is no TOML."""
        self.problems = problems
        self.line = line
        super().__init__("\n".join(problems))


class NotFoundError(AgentcronError):
    """What was asked for does not exist."""


class RefusedError(AgentcronError):
    """What was asked for is not possible in the present state."""


class InvalidError(AgentcronError):
    """What was asked for makes no sense: a value has the right shape and a wrong meaning."""

    exit_status = 2


class ForbiddenError(AgentcronError):
    """The principal may see what it asked about, but not do it."""


class StaleVersionError(AgentcronError):
    """The schedule was changed since the version that the change was meant for."""


class DaemonUnreachableError(AgentcronError):
    """No daemon answers for this state directory."""

    exit_status = 3


class StoreError(AgentcronError):
    """The database cannot be opened or must not be used as it is."""


class NewerSchemaError(StoreError):
    """The database was written by a newer version."""


class StoreDamagedError(StoreError):
    """What the database holds is not what was written to it; going on could only make that worse."""


class StoreUnavailableError(AgentcronError):
    """The database cannot take a write now (locked, disk full, I/O error); trying again later may succeed."""


class DiskFullError(StoreUnavailableError):
    """The database cannot be written because the disk is full."""


class NoRoomError(StoreUnavailableError):
    """The disk has too little room for anything new; the log was told."""


class SecretError(AgentcronError):
    """A secret that a run needs cannot be read."""


class StaleStatusError(AgentcronError):
    """A compare-and-set found another status than the one it expected."""
