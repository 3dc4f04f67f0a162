"""A run that starts an agent without a schedule, as it is written."""

import json
from typing import Any

import pytest

from daemon.runs.start import start_run
from tests.support.ledger import START, Ledger


@pytest.mark.parametrize("given", [5, ["a"], {"a": 1}, None], ids=["number", "list", "object", "null"])
async def test_a_display_name_that_is_no_text_is_replaced_as_in_runs_of_schedules(
    ledger: Ledger, given: object
) -> None:
    metadata = json.dumps({"display_name": given, "mine": 1})
    columns = {"input_author": "user", "input_content": "", "task_params": "{}", "task_metadata": metadata}
    request: dict[str, Any] = {"principal": "root", "now": START, "instance": "x", "limited": True}
    await ledger.database.write(lambda tx: start_run(tx, "a", columns, None, **request))
    [run] = await ledger.select("SELECT display_name, task_metadata FROM runs")
    assert run["display_name"] == "Requested Message: a · 2026-11-21 12:00 UTC"
    kept = json.loads(run["task_metadata"])
    assert (kept["display_name"], kept["mine"], kept["trigger_type"]) == (run["display_name"], 1, "manual")
