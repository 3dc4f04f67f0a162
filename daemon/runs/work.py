"""Describes a run for its agent: what it is asked to do, where, and what earlier daemons did for it."""

import json
from pathlib import Path

from daemon.agents.base import Identity, Work
from daemon.model import RunStatus
from daemon.runs.folder import run_folder
from daemon.runs.hook_tokens import HookTokens
from daemon.runs.settings import settings_of
from daemon.store.runs import Run


def work_of(run: Run, state_dir: Path, hooks: HookTokens) -> Work:
    """Return a run as its agent sees it."""
    identity = None
    if run.boot_id is not None and run.pid is not None and run.pid_started is not None:
        identity = Identity(run.boot_id, run.pid, run.pid_started)
    folder, settings = run_folder(state_dir, run.id), settings_of(run)
    return Work(
        run_id=run.id,
        run_name=run.name,
        agent=run.agent,
        schedule=run.schedule or "",
        scheduled_for=run.scheduled_for,
        attempt=run.attempt,
        trigger=run.trigger,
        idempotency_key=run.idempotency_key,
        author=run.input_author,
        content=run.input_content,
        params=json.loads(run.task_params),
        metadata=json.loads(run.task_metadata),
        created_at=run.created_at,
        run_dir=folder,
        workspace=folder,
        settings=settings,
        hook_token=hooks.token(run.idempotency_key) if settings.await_completion else None,
        record_key=hooks.record_key(run.idempotency_key) if settings.signed_records else None,
        identity=identity,
        delivered=run.delivered_at is not None,
        session=run.resumed_session,
        previous_session=run.previous_session,
        remote=json.loads(run.remote or "{}") if run.status is RunStatus.SUSPENDED else None,
    )
