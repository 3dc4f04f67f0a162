"""The one table of a schedule's fields: what each is called and how it is written in file, database, API and CLI.

A new key is a line in `FIELDS`, its type and default in `config/schema.py`, a column in a migration, and its
documentation. The rest is made from these: request models and their defaults, answers, revisions, `check --diff`, the
options of `schedules create` and `update`, and the OpenAPI document. A key that decides when a schedule is due is
also a parameter of `store.schedules._cadence`; rules between keys stand in `config/crosschecks.py` and, for the API,
in `schedules/management.py`, a default that depends on other keys in `schedules/defaults.py`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from daemon.model import Catchup, Overlap, SessionPolicy
from daemon.units import format_duration, format_instant, parse_duration, parse_instant


def _same(value: Any) -> Any:  # noqa: ANN401 - values of every kind
    return value


@dataclass(frozen=True, eq=False)
class Kind:
    """How a kind of value is written; every function gets a value other than None."""

    json_type: Any
    """The type of its values in the answers of the API."""
    metavar: str
    """Its placeholder in the help of an option."""
    from_file: Callable[[Any], Any] = _same
    """From the value in the config to the column."""
    from_api: Callable[[Any], Any] = _same
    """From the value in a request to the column; raises ValueError for what has no meaning."""
    to_api: Callable[[Any], Any] = _same
    """From the column to the value in an answer."""
    to_file: Callable[[Any], Any] = _same
    """From the column to what people write in the file."""
    parse: Callable[[str], Any] = _same
    """From the text of an option to the value in a request; raises ValueError."""
    api_suffix: str = ""
    """What the API appends to a key, for its unit."""
    column_suffix: str = ""
    """What the database appends."""


def _milliseconds(length: timedelta) -> int:
    return length // timedelta(milliseconds=1)


def _seconds(milliseconds: int) -> float:
    return milliseconds // 1000 if milliseconds % 1000 == 0 else milliseconds / 1000


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - callers expect ValueError
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # noqa: PLR2004 - what SQLite can hold
        raise ValueError("not a whole number")
    return int(text)


TEXT = Kind(str, "TEXT")
INPUT = replace(TEXT, metavar="TEXT|@FILE|-")
"""Text that the command line also takes from a file or from standard input."""
BOOLEAN = Kind(bool, "", from_file=int, from_api=int, to_api=bool)
DURATION = Kind(
    float,
    "DURATION",
    from_file=_milliseconds,
    from_api=lambda seconds: seconds * 1000,
    to_api=_seconds,
    to_file=lambda milliseconds: format_duration(timedelta(milliseconds=milliseconds)),
    parse=lambda text: int(parse_duration(text).total_seconds()),
    api_suffix="_seconds",
    column_suffix="_ms",
)
POSITIVE_DURATION = replace(DURATION)
INSTANT = Kind(str, "TIME", from_file=format_instant, from_api=lambda text: format_instant(parse_instant(text)))
OBJECT = Kind(
    dict[str, Any],
    "JSON",
    from_file=lambda value: json.dumps(value, default=str),  # TOML has dates and times, JSON has none
    from_api=json.dumps,
    to_api=json.loads,
    parse=_object,
)
OVERLAP = Kind(Overlap, "POLICY", from_file=str, from_api=str)
COUNT = Kind(int, "N", parse=_count)
SESSION = Kind(SessionPolicy, "POLICY", from_file=str, from_api=str)
CATCHUP = Kind(Catchup, "POLICY", from_file=str, from_api=str)


@dataclass(eq=False)
class ScheduleField:
    """One field of a schedule; the names that are not given follow from its key and kind."""

    key: str
    """Its name in the file; on the command line, `_` is `-`."""
    kind: Kind
    api: str = ""
    """Its name in the API; `a.b` is the key b of the object a."""
    column: str = ""
    attribute: str = ""
    """Where the config schema has it, below a schedule."""
    clearable: bool = False
    """Whether people may set it back to its default: null in a request, `--clear` on the command line."""
    cadence: bool = False
    """Whether it decides when the schedule is due, so that due times count from a change of it."""
    derived: bool = False
    """Whether its default depends on other fields (`schedules.defaults`); its column is null until that is known."""
    file_only: bool = False
    """Whether the API shows it but does not take it; it has no option either."""
    help: str = ""
    """What its option does; without it there is no option."""
    metavar: str = ""
    option: str = ""
    """What the option is called; for a boolean, followed by its opposite."""

    def __post_init__(self) -> None:
        dashed = self.key.replace("_", "-")
        self.api = self.api or self.key + self.kind.api_suffix
        self.column = self.column or self.key + self.kind.column_suffix
        self.attribute = self.attribute or self.key
        self.metavar = self.metavar or self.kind.metavar
        self.option = self.option or (f"--{dashed}/--no-{dashed}" if self.kind is BOOLEAN else f"--{dashed}")

    @property
    def api_key(self) -> str:
        """The key of a request or an answer that holds it."""
        return self.api.partition(".")[0]

    def shown(self, value: Any) -> Any:  # noqa: ANN401 - values of every kind
        """Return the value of its column as the API shows it."""
        return None if value is None else self.kind.to_api(value)

    def written(self, value: Any) -> Any:  # noqa: ANN401 - likewise
        """Return the value of its column as the file has it."""
        return None if value is None else self.kind.to_file(value)


PAUSED = ScheduleField("paused", BOOLEAN, option="--paused/--not-paused", help="Whether the schedule is paused.")
FIELDS = (
    ScheduleField("description", TEXT, clearable=True, help="A description for people."),
    ScheduleField(
        "cron",
        TEXT,
        api="cron_expression",
        cadence=True,
        metavar="EXPRESSION",
        help="Due times as a cron expression, see crontab(5).",
    ),
    ScheduleField(
        "every",
        POSITIVE_DURATION,
        api="interval_seconds",
        cadence=True,
        help="Interval, aligned to the Unix epoch.",
    ),
    ScheduleField("offset", DURATION, cadence=True, help="Shift the due times of --every by this much."),
    ScheduleField("timezone", TEXT, cadence=True, metavar="ZONE", help="IANA time zone of --cron."),
    ScheduleField("start_at", INSTANT, clearable=True, cadence=True, help="Not due before this RFC 3339 time."),
    ScheduleField("end_at", INSTANT, clearable=True, cadence=True, help="Not due after this RFC 3339 time."),
    ScheduleField("jitter", DURATION, help="Delay each start by up to this."),
    ScheduleField(
        "overlap",
        OVERLAP,
        api="overlap_policy",
        help=f"What to do while an earlier run is unfinished: {', '.join(Overlap)}.",
    ),
    ScheduleField("catchup", CATCHUP, help=f"Which missed due times to start: {', '.join(Catchup)}."),
    ScheduleField(
        "catchup_window",
        DURATION,
        clearable=True,
        derived=True,
        help="Ignore missed due times older than this; default: a day, or the longest gap between due times.",
    ),
    ScheduleField(
        "session",
        SESSION,
        help=f"Which session of its agent a run works in: {', '.join(SessionPolicy)} (that of the last completed run).",
    ),
    ScheduleField(
        "session_max_age", POSITIVE_DURATION, clearable=True, help="Begin a new session when the last is this old."
    ),
    ScheduleField(
        "session_max_runs", COUNT, clearable=True, help="Begin a new session after this many completed runs."
    ),
    ScheduleField("pause_on_failure", BOOLEAN, help="Pause the schedule when a run fails."),
    PAUSED,
    ScheduleField("input.author", TEXT, api="initial_input.author", column="input_author"),
    ScheduleField(
        "input",
        INPUT,
        api="initial_input.content",
        column="input_content",
        attribute="input.content",
        help="Input of each run; @FILE is the content of a file, - is standard input, @@TEXT begins with an @.",
    ),
    ScheduleField(
        "params",
        OBJECT,
        api="task_params",
        column="task_params",
        clearable=True,
        help="Parameters of each run, a JSON object.",
    ),
    ScheduleField(
        "metadata",
        OBJECT,
        api="task_metadata",
        column="task_metadata",
        clearable=True,
        help="Metadata of each run, a JSON object.",
    ),
)
DEFINITION = tuple(entry for entry in FIELDS if entry is not PAUSED)
"""The fields that a change replaces; pausing has operations of its own."""
BY_COLUMN = {entry.column: entry for entry in FIELDS}
