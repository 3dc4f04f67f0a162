"""Starts an agent once, on request and without a schedule."""

import json
import uuid
from collections.abc import Mapping
from datetime import datetime

from daemon.model import Trigger
from daemon.rules.run_metadata import with_facts
from daemon.store.connection import Transaction
from daemon.store.limits import check_pending
from daemon.store.runs import NewRun, create_run
from daemon.store.trigger_keys import KeyScope, remember_key, run_of_key
from daemon.units import format_instant


def start_run(
    tx: Transaction,
    agent: str,
    columns: Mapping[str, str],
    key: str | None,
    *,
    principal: str,
    now: datetime,
    instance: str,
    limited: bool,
) -> int:
    """Create a run of an agent and return its number; a repeated key with the same `columns` returns the same run.

    The caller has checked the rights of the principal. `columns` are the input, parameters and metadata of the run.
    Raise RefusedError if the key was used with others, LimitError if `limited` and too many of the principal's runs
    wait.
    """
    scope = KeyScope.of_agent(agent)
    known = run_of_key(tx, scope, key, columns)
    if known is not None:
        return known
    if limited:
        check_pending(tx, principal)
    at, given = format_instant(now), json.loads(columns["task_metadata"])
    display_name, metadata = with_facts(given, f"Requested Message: {agent}", Trigger.MANUAL, at)
    new = NewRun(
        name=f"agent-run:{agent}:{at}:manual-{uuid.uuid4()}",
        agent=agent,
        schedule_id=None,
        trigger=Trigger.MANUAL,
        scheduled_for=now,
        display_name=display_name,
        creator=principal,
        input_author=columns["input_author"],
        input_content=columns["input_content"],
        task_params=columns["task_params"],
        task_metadata=json.dumps(metadata),
        instance=instance,
    )
    run_id, _ = create_run(tx, new, now)
    remember_key(tx, scope, key, columns, run_id)
    return run_id
