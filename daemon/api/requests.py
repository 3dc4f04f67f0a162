"""The shapes of requests: the models that validate them and stand in `/openapi.json`."""

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator
from pydantic.config import JsonDict

from daemon.config.schema import Config, InitialInput, Schedule
from daemon.model import NAME, FireOutcome, Overlap, RunStatus
from daemon.rules.schedule_fields import DURATION, FIELDS, INSTANT, PAUSED, POSITIVE_DURATION, ScheduleField
from daemon.schedules.declared import definition_of

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, max_length=40)]


def _whole(value: object) -> object:
    """Accept 60.0 as 60: JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Seconds = Annotated[int, Field(ge=0, le=36500 * 86400), BeforeValidator(_whole)]
Interval = Annotated[int, Field(ge=1, le=36500 * 86400), BeforeValidator(_whole)]
_MOST_UNKNOWN = 25  # one error each; more than an answer names
_CADENCES = ("cron_expression", "interval_seconds")
_BOTH_CADENCES: JsonDict = {
    "properties": {"cron_expression": {"type": "string"}, "interval_seconds": {"type": "integer"}},
    "required": [*_CADENCES],
}
Policy = Annotated[Overlap, Field(strict=False)]


class _FewUnknown(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def _drop_most_unknown_keys(cls, value: object) -> object:
        """Keep only the first unknown keys: each one is an error, and a large body could have very many."""
        if not isinstance(value, dict) or len(value) <= len(cls.model_fields) + _MOST_UNKNOWN:
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        unknown = islice((key for key in value if key not in known), _MOST_UNKNOWN)
        return {key: value[key] for key in (*(value.keys() & known), *unknown)}


class Shape(_FewUnknown):
    """A request body: strict types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, defer_build=True)


class Input(InitialInput, _FewUnknown):
    """The input of a schedule's runs."""


class _Change(Shape):
    model_config = ConfigDict(json_schema_extra={"not": _BOTH_CADENCES})

    @model_validator(mode="after")
    def _one_cadence(self) -> Self:
        if all(getattr(self, name) is not None for name in _CADENCES):
            raise ValueError(f"both {' and '.join(_CADENCES)} are set; keep exactly one of them")
        return self


class _Create(_Change):
    name: Name


DEFAULTS = {**definition_of(Schedule(), Config()), PAUSED.column: int(Schedule().paused)}
"""The columns of a schedule for which a request sets nothing, `paused` included."""
_TYPES_OF_KINDS = {POSITIVE_DURATION: Interval, DURATION: Seconds, INSTANT: Time}
_TYPES_OF_KEYS = {  # their meaning is checked later, with status 400 instead of 422
    "cron": Annotated[str, Field(max_length=1000)],
    "timezone": Annotated[str, Field(max_length=100)],
}


def keys_of(fields: Iterable[ScheduleField]) -> dict[str, Any]:
    """Return the keys of requests with their types and defaults; parts of objects are left out."""
    return {field.api: _key_of(field) for field in fields if field.api == field.api_key and not field.file_only}


def _key_of(field: ScheduleField) -> tuple[Any, Any]:
    """Return the type and the default of a key; the type is that of the config schema unless JSON differs from TOML."""
    own, default = Schedule.model_fields[field.key], DEFAULTS[field.column]
    kind = _TYPES_OF_KEYS.get(field.key) or _TYPES_OF_KINDS.get(field.kind) or own.rebuild_annotation()
    return (kind | None, None) if field.clearable or default is None else (kind, field.shown(default))


_KEYS = {**keys_of(FIELDS), "initial_input": (Input, Input.model_construct(content=DEFAULTS["input_content"]))}
ScheduleChange = create_model(
    "ScheduleChange",
    __base__=_Change,
    __doc__="Fields of a schedule; a change holds those to set.",
    **_KEYS,
)
ScheduleCreate = create_model(
    "ScheduleCreate",
    __base__=_Create,
    __doc__="A new schedule; it needs a name and exactly one of cron_expression and interval_seconds.",
    **_KEYS,
)


class Note(Shape):
    """The reason for a change."""

    note: Annotated[str, Field(max_length=1000)] | None = None


class PauseRequest(Note):
    """The reason for a pause, and whether running runs are cancelled, too."""

    cancel: bool = False


class PoolPause(Note):
    """The reason for a pause of a pool or of everything, and until when it lasts; unset: until somebody resumes it."""

    until: Time | None = None


class TriggerRequest(Shape):
    """What replaces the schedule's input and parameters in one run."""

    initial_input: Input | None = None
    task_params: dict[str, Any] | None = None


StartRequest = create_model(
    "StartRequest",
    __base__=Shape,
    __doc__="The input, parameters and metadata of one run without a schedule.",
    **{key: _KEYS[key] for key in ("initial_input", "task_params", "task_metadata")},
)


class SkipRequest(Shape):
    """One upcoming due time."""

    scheduled_time: Time


class BackfillRequest(Shape):
    """A span of the past, both ends included, and the overlap policy for its due times."""

    from_: Time = Field(alias="from")
    to: Time
    overlap_policy: Policy | None = None


class CleanRequest(Shape):
    """Which workspaces to remove: those older than the environments' max_age, or than `older_than_seconds`."""

    older_than_seconds: Seconds | None = None
    dry_run: bool = False


class DiscardRequest(Shape):
    """Whether the work in a workspace is lost instead of saved; a dry run only reports what would happen."""

    without_saving: bool = False
    dry_run: bool = False


class RetentionRequest(Shape):
    """Whether the sweep deletes, or only reports what it would delete; and whether it does so by a doubted clock."""

    dry_run: bool = False
    trust_clock: bool = False


class HookCall(Shape):
    """How the work of a run ended, as its agent reports."""

    status: Literal["completed", "failed"]
    result: Any = None
    error: str | None = None


# queries


class Page(BaseModel):
    """Which page of a list to return."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: Annotated[str, Field(max_length=200)] | None = None


class ScheduleQuery(Page):
    """Which schedules to return, by name; with `inputs` also their inputs, parameters and metadata."""

    inputs: bool = False
    deleted: bool = False
    """Deleted schedules instead, the newest first."""


class Span(Page):
    """Which part of a history to return, both ends included, newest first."""

    from_: Annotated[Time | None, Field(alias="from")] = None
    to: Time | None = None


class FireQuery(Span):
    """Which fires to return: those whose due times lie in the span, of one outcome."""

    outcome: FireOutcome | None = None


class DeleteQuery(BaseModel):
    """Whether running runs are cancelled, too."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    cancel: bool = False


class WorkspaceQuery(Page):
    """Which workspaces to return, by environment and run."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 1000


class RunQuery(Span):
    """Which runs to return, newest first; the span is that of their due times, `A/N@ID` one schedule of that name."""

    agent: Name | None = None
    schedule: Annotated[str, Field(pattern=f"^{NAME.pattern}/{NAME.pattern}(@[1-9][0-9]{{0,17}})?$")] | None = None
    status: RunStatus | None = None


class OutputQuery(BaseModel):
    """Whether the output is followed to the end of the run."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    follow: bool = False


class NoQuery(BaseModel):
    """A request without a query."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
