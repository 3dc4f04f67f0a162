"""What answers look like: the models behind `/openapi.json`."""

from typing import Any, Literal

from pydantic import BaseModel

from daemon.model import Catchup, FireOutcome, Overlap, RunStatus, Trigger


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
    memory_peak_bytes: int | None
    cpu_seconds: float | None
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


class ExpiredGroup(BaseModel):
    """The expired runs of one schedule; oldest and newest say when they were touched last."""

    agent: str
    schedule: str | None
    runs: int
    oldest: str
    newest: str
    bytes: int


class ForecastView(BaseModel):
    """What a sweep would delete; `run_ids` names the first thousand runs."""

    runs: int
    fires: int
    workspaces: int
    folders: int
    bytes: int
    run_ids: list[int]
    groups: list[ExpiredGroup]


class RetentionView(BaseModel):
    """What a sweep deleted; `skipped` where nothing is ever deleted, and `would_delete` of a dry run."""

    deleted: int
    skipped: bool
    fires: int
    schedules: int
    workspaces: int
    folders: int
    bytes_freed: int
    duration_ms: int
    dry_run: bool
    would_delete: ForecastView | None


class ReloadView(BaseModel):
    """What a reload changed."""

    changes: list[dict[str, Any]]
    warnings: list[str]


class HookView(BaseModel):
    """The run that a hook ended."""

    run_id: int
    status: Literal["completed", "failed"]


class Health(BaseModel):
    """That the daemon answers."""

    status: Literal["ok"]


class DaemonView(BaseModel):
    """Which daemon this is: the file that it runs by, where its state is, and what keeps it from its work."""

    pid: int
    config_file: str
    state_dir: str
    timezone: str
    amiss: str | None


class StatusView(BaseModel):
    """How the daemon is doing."""

    daemon: dict[str, Any]
    running: list[RunView]
    pending: int
    next: list[dict[str, Any]]
    last_failures: list[RunView]
    timeline: list[dict[str, Any]]
    cost_today_usd: float | None
    tokens_today: int
    sweeps: dict[str, dict[str, int]]
    disk: dict[str, str]


class ErrorView(BaseModel):
    """What is wrong and how to mend it; `code` is for programs."""

    message: str
    code: str
    data: dict[str, Any]
