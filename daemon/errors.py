"""Expected failures, reported to people without a traceback."""


class AgentcronError(Exception):
    """An expected failure; its text says what is wrong and how to fix it."""

    exit_status = 1


class ConfigError(AgentcronError):
    """The config file is invalid; `problems` holds one line per error."""

    exit_status = 2

    def __init__(self, problems: list[str], line: int | None = None) -> None:
        """Store the errors, and the line at which the file stops being valid TOML."""
        self.problems = problems
        self.line = line
        super().__init__("\n".join(problems))


class NotFoundError(AgentcronError):
    """The requested object does not exist."""


class RefusedError(AgentcronError):
    """The request is not possible in the current state."""


class InvalidError(AgentcronError):
    """The request is invalid: a value has the right type but makes no sense."""

    exit_status = 2


class ForbiddenError(AgentcronError):
    """The principal may read the object, but not do this to it."""


class LimitError(AgentcronError):
    """The principal has as many objects, or causes as much, as it may; others are not affected."""


class StaleVersionError(AgentcronError):
    """The schedule has changed since the version that the change is for."""


class DaemonUnreachableError(AgentcronError):
    """No daemon responds for this state directory."""

    exit_status = 3


class StoreError(AgentcronError):
    """The database cannot be opened, or must not be used as it is."""


class NewerSchemaError(StoreError):
    """The database was written by a newer version."""


class StoreDamagedError(StoreError):
    """The database is damaged; continuing could make it worse."""


class DamagedRowError(StoreError):
    """A row of the database holds a value that agentcron did not write; other rows can be used."""


class StoreUnavailableError(AgentcronError):
    """The database cannot be written now (locked, disk full, I/O error); a retry may succeed."""


class DiskFullError(StoreUnavailableError):
    """The database cannot be written because the disk is full."""


class NoRoomError(StoreUnavailableError):
    """The disk has too little free space for new runs; this has been logged."""


class SecretError(AgentcronError):
    """A secret that a run needs cannot be read."""


class StaleStatusError(AgentcronError):
    """A compare-and-set found a status other than the expected one."""
