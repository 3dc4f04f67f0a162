"""What requests must look like: the models behind validation and `/openapi.json`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from daemon.model import NAME, Catchup, Overlap, RunStatus

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, max_length=40)]


def _whole(value: object) -> object:
    """Take 60.0 for 60: JSON knows one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Seconds = Annotated[int, Field(ge=0, le=36500 * 86400), BeforeValidator(_whole)]
Interval = Annotated[int, Field(ge=1, le=36500 * 86400), BeforeValidator(_whole)]
_BOTH_CADENCES: JsonDict = {
    "properties": {"cron_expression": {"type": "string"}, "interval_seconds": {"type": "integer"}},
    "required": ["cron_expression", "interval_seconds"],
}
Policy = Annotated[Overlap, Field(strict=False)]


class Shape(BaseModel):
    """A request body: strict types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Input(Shape):
    """What a schedule hands to its agent."""

    type: Literal["text"] = "text"
    author: Literal["user", "agent"] = "user"
    content: str


class ScheduleChange(Shape):
    """Keys of a schedule; a change names those that become another."""

    model_config = ConfigDict(json_schema_extra={"not": _BOTH_CADENCES})

    description: str | None = None
    cron_expression: Annotated[str, Field(max_length=1000)] | None = None
    interval_seconds: Interval | None = None
    offset_seconds: Seconds = 0
    timezone: Annotated[str, Field(max_length=100)] = "UTC"
    start_at: Time | None = None
    end_at: Time | None = None
    paused: bool = False
    task_params: dict[str, Any] | None = None
    task_metadata: dict[str, Any] | None = None
    initial_input: Input = Input(content="")
    overlap_policy: Policy = Overlap.SKIP
    catchup: Annotated[Catchup, Field(strict=False)] = Catchup.LATEST
    catchup_window_seconds: Seconds = 86400
    jitter_seconds: Seconds = 0
    pause_on_failure: bool = False

    @model_validator(mode="after")
    def _one_cadence(self) -> Self:
        if self.cron_expression is not None and self.interval_seconds is not None:
            raise ValueError("both cron_expression and interval_seconds are set; keep exactly one of them")
        return self


class ScheduleCreate(ScheduleChange):
    """A new schedule; it needs a name and exactly one of cron_expression and interval_seconds."""

    name: Name


class Note(Shape):
    """Why something is done."""

    note: str | None = None


class TriggerRequest(Shape):
    """What one run out of band gets instead of what the schedule hands over."""

    initial_input: Input | None = None
    task_params: dict[str, Any] | None = None


class SkipRequest(Shape):
    """One upcoming due time."""

    scheduled_time: Time


class BackfillRequest(Shape):
    """A span of the past, both ends included, and what its due times do to each other."""

    from_: Time = Field(alias="from")
    to: Time
    overlap_policy: Policy | None = None


class CleanRequest(Shape):
    """Which workspaces go: those older than the environments' max_age, or than this."""

    older_than_seconds: Seconds | None = None
    dry_run: bool = False


class RetentionRequest(Shape):
    """Whether a sweep deletes, or only tells what it would delete."""

    dry_run: bool = False


class HookCall(Shape):
    """How the work of a run ended, as its agent says."""

    status: Literal["completed", "failed"]
    result: Any = None
    error: str | None = None


# queries


class Page(BaseModel):
    """Which part of a list is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: Annotated[str, Field(max_length=200)] | None = None


class RunQuery(Page):
    """Which runs are wanted, newest first."""

    agent: Name | None = None
    schedule: Annotated[str, Field(pattern=f"^{NAME.pattern}/{NAME.pattern}$")] | None = None
    status: RunStatus | None = None


class OutputQuery(BaseModel):
    """Whether the output is followed to the end of the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    follow: bool = False


class NoQuery(BaseModel):
    """A request without a query."""

    model_config = ConfigDict(extra="forbid", frozen=True)
