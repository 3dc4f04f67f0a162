"""What requests must look like and what answers do look like: the models behind validation and `/openapi.json`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from daemon.config.values import NAME
from daemon.model import Catchup, FireOutcome, Overlap, RunStatus, Trigger

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


# answers


class ScheduleView(BaseModel):
    """A schedule with its state and figures; live fields are null where they cannot be computed."""

    id: int
    agent: str
    name: str
    source: Literal["declared", "created"]
    description: str
    cron_expression: str | None
    interval_seconds: float | None
    offset_seconds: float
    timezone: str
    start_at: str | None
    end_at: str | None
    jitter_seconds: float
    overlap_policy: Overlap
    catchup: Catchup
    catchup_window_seconds: float
    pause_on_failure: bool
    paused: bool
    pause_note: str | None
    initial_input: dict[str, str]
    initial_input_method: str | None
    task_params: dict[str, Any]
    task_metadata: dict[str, Any]
    state: Literal["active", "paused", "deleted"]
    next_action_times: list[str] | None
    skipped_action_times: list[str]
    last_action_time: str | None
    num_actions_taken: int
    missed_count: int
    creator_principal: str
    version: int
    created_at: str
    updated_at: str


class ScheduleList(BaseModel):
    """Schedules of one agent by name."""

    run_schedules: list[ScheduleView]
    total: int
    next_cursor: str | None


class RunView(BaseModel):
    """A run."""

    id: int
    name: str
    display_name: str
    agent: str
    schedule: str | None
    timezone: str | None
    schedule_id: int | None
    trigger: Trigger
    scheduled_for: str
    attempt: int
    status: RunStatus
    created_at: str
    started_at: str | None
    delivered_at: str | None
    completed_at: str | None
    updated_at: str
    duration_ms: int | None
    not_before: str | None
    exit_code: int | None
    signal: int | None
    error: str | None
    message: str | None
    usage: dict[str, float | None]
    output_bytes: int | None
    output_dropped: int | None
    previous_run_id: int | None
    next_run_id: int | None
    creator_principal: str


class RunDetails(RunView):
    """A run with its input, steps and events."""

    initial_input: dict[str, str]
    task_params: dict[str, Any]
    task_metadata: dict[str, Any]
    steps: list[dict[str, Any]]
    events: list[dict[str, Any]]
    workspace: dict[str, Any] | None


class RunList(BaseModel):
    """Runs, newest first."""

    runs: list[RunView]
    total: int
    next_cursor: str | None


class FireView(BaseModel):
    """What became of one due time, or of the many that a summary covers."""

    scheduled_for: str
    outcome: FireOutcome
    reason: str | None
    run_id: int | None
    decided_at: str
    covers_until: str | None
    covers_count: int | None


class FireList(BaseModel):
    """The ledger of a schedule, newest first."""

    fires: list[FireView]
    total: int
    next_cursor: str | None


class RevisionView(BaseModel):
    """One change of a schedule: `changes` holds before and after of each key."""

    version: int
    at: str
    principal: str
    action: str
    changes: dict[str, list[Any]]
    note: str | None


class RevisionList(BaseModel):
    """The audit trail of a schedule, newest first."""

    revisions: list[RevisionView]
    total: int
    next_cursor: str | None


class BackfillView(BaseModel):
    """What a backfill started, and what it left as it was."""

    backfilled: int
    already_run: int
    skipped_overlap: int
    upcoming: int
    runs: list[int]


class CleanRequest(Shape):
    """Which workspaces go: those older than the environments' max_age, or than this."""

    older_than_seconds: Seconds | None = None
    dry_run: bool = False


class CleanView(BaseModel):
    """What a cleanup removed, or would remove."""

    removed: list[int]
    failed: list[dict[str, Any]]
    dry_run: bool


class DiscardView(BaseModel):
    """That a workspace is gone."""

    run_id: int
    removed: bool


class WorkspaceView(BaseModel):
    """A workspace that is there, and why."""

    run_id: int
    agent: str
    schedule: str | None
    environment: str
    path: str
    status: RunStatus
    kept: bool
    reason: str
    bytes: int | None
    age_seconds: int | None
    created_at: str
    ended_at: str | None


class WorkspaceList(BaseModel):
    """The workspaces that are there, and the room that environments take."""

    workspaces: list[WorkspaceView]
    environments: list[dict[str, Any]]
    total: int


class ReloadView(BaseModel):
    """What a reload changed."""

    changes: list[dict[str, Any]]
    warnings: list[str]


class Health(BaseModel):
    """That the daemon answers."""

    status: Literal["ok"]


class StatusView(BaseModel):
    """How the daemon is doing."""

    daemon: dict[str, Any]
    running: list[RunView]
    pending: int
    next: list[dict[str, Any]]
    last_failures: list[RunView]
    timeline: list[dict[str, Any]]
    cost_today_usd: float | None
    disk: dict[str, str]


class ErrorView(BaseModel):
    """What is wrong and how to mend it; `code` is for programs."""

    message: str
    code: str
    data: dict[str, Any]
