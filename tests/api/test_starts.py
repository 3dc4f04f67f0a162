"""Runs of agents without a schedule: how they are started, and that they are runs like all others."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api import call
from tests.support.configs import config_text
from tests.support.daemon_process import DaemonProcess, daemons_in
from tests.support.runs import ended

pytestmark = pytest.mark.xdist_group("starts")
SHOWS = 'cat; echo; cat "$AGENTCRON_PARAMS"; echo; echo "[$AGENTCRON_SCHEDULE] $AGENTCRON_TRIGGER"'
TEXT = config_text(
    control={"socket": "c.sock"},
    agents={
        "shows": {"command": ["sh", "-c", SHOWS]},
        "fails": {"command": ["false"], "attempts": 2, "retry_delay": "0s"},
        "sleeps": {"command": ["sleep", "600"], "timeout": "2h"},
    },
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon whose agents have no schedules."""
    with daemons_in(tmp_path_factory.mktemp("starts")) as start:
        yield start(TEXT)


def test_a_start_is_a_run_with_its_own_input_params_and_metadata(daemon: DaemonProcess) -> None:
    asked: dict[str, Any] = {
        "initial_input": {"content": "look"},
        "task_params": {"depth": 3},
        "task_metadata": {"display_name": "A look", "team": "ops"},
    }
    answer = call(daemon, "POST", "/agents/shows/runs", asked)
    assert answer.status == 201, answer.data
    run = answer.body
    assert (run["agent"], run["schedule"], run["schedule_id"], run["trigger"]) == ("shows", None, None, "manual")
    assert run["name"].startswith(f"agent-run:shows:{run['scheduled_for']}:manual-")
    assert ended(daemon, run["id"])["status"] == "completed"
    assert daemon.output(run["id"]).splitlines() == ["look", '{"depth": 3}', "[] manual"]
    details = call(daemon, "GET", f"/runs/{run['id']}").body
    assert (details["display_name"], details["task_params"]) == ("A look", {"depth": 3})
    assert details["task_metadata"] == {
        **asked["task_metadata"],
        "trigger_type": "manual",
        "fire_time": run["scheduled_for"],
    }
    plain = call(daemon, "POST", "/agents/shows/runs").body
    assert plain["display_name"].startswith("Requested Message: shows · ")
    assert ended(daemon, plain["id"])["input_content"] == ""


def test_a_repeated_key_is_the_same_run_of_that_agent(daemon: DaemonProcess) -> None:
    asked = {"initial_input": {"content": "x"}}
    first, again = (call(daemon, "POST", "/agents/shows/runs", asked, Idempotency_Key="k") for _ in range(2))
    assert (first.status, again.status, again.body["id"]) == (201, 201, first.body["id"])
    other = call(daemon, "POST", "/agents/shows/runs", {}, Idempotency_Key="k")
    assert (other.status, other.code) == (409, "conflict")
    assert f"started run {first.body['id']}" in other.body["message"]
    assert call(daemon, "POST", "/agents/sleeps/runs", asked, Idempotency_Key="k").body["id"] != first.body["id"]


@pytest.mark.parametrize(
    ("agent", "body", "status", "says"),
    [
        ("none", {}, 404, "no agent 'none' is in the config"),
        ("No", {}, 404, "nothing is named 'No'"),
        ("shows", {"task_metadata": {"display_name": 1}}, 400, "display_name should be a string"),
        (
            "shows",
            {"task_metadata": {"schedule_id": 1, "scheduled_fire_id": "1:x"}},
            400,
            "leave out schedule_id and scheduled_fire_id: only runs that a schedule starts have these",
        ),
        ("shows", {"initial_input": None}, 422, "wrong shape"),
        ("shows", {"interval_seconds": 60}, 422, "wrong shape"),
    ],
)
def test_a_wrong_start_is_refused(
    daemon: DaemonProcess, agent: str, body: dict[str, object], status: int, says: str
) -> None:
    refused = call(daemon, "POST", f"/agents/{agent}/runs", body)
    assert (refused.status, says in refused.body["message"]) == (status, True), refused.data


def test_a_start_has_further_attempts_and_can_be_retried(daemon: DaemonProcess) -> None:
    first = call(daemon, "POST", "/agents/fails/runs").body["id"]
    run = ended(daemon, first)
    assert run["status"] == "continued_as_new"
    second = ended(daemon, run["next_run_id"])
    assert (second["status"], second["attempt"], second["name"]) == ("failed", 2, f"{run['name']}:2")
    third = call(daemon, "POST", f"/runs/{second['id']}/retry")
    assert (third.status, third.body["attempt"], third.body["schedule"]) == (201, 3, None)


def test_the_command_line_starts_shows_and_cancels_such_runs(daemon: DaemonProcess) -> None:
    waited = daemon.cli("runs", "start", "shows", "--input", "@@all", "--params", '{"a": 1}', "--wait")
    assert (waited.returncode, waited.stdout) == (0, '@all\n{"a": 1}\n[] manual\n'), waited.stderr
    view = json.loads(daemon.cli("runs", "start", "sleeps", "--key", "mine", "--json").stdout)
    assert daemon.cli("runs", "start", "sleeps", "--key", "mine").stdout.startswith(f"Run {view['id']} is ")
    shown = json.loads(daemon.cli("runs", "show", str(view["id"]), "--json").stdout)
    assert (shown["agent"], shown["schedule"]) == ("sleeps", None)
    assert json.loads(daemon.query("SELECT settings FROM runs WHERE id = ?", 1)[0]["settings"])["kind"] == "command"
    listed = json.loads(daemon.cli("runs", "list", "--agent", "sleeps", "--json").stdout)["runs"]
    assert view["id"] in {run["id"] for run in listed}
    assert daemon.cli("runs", "cancel", "--agent", "sleeps").returncode == 0
    assert ended(daemon, view["id"])["status"] == "cancelled"
    for words, status, says in (
        (("none",), 1, "no agent 'none'"),
        (("a/s",), 2, "'a/s' is not the name of an agent"),
        (("shows", "--metadata", "[]"), 2, "--metadata: '[]' is not a JSON object"),
        (("shows", "--metadata", '{"display_name": 1}'), 2, "--metadata: display_name should be"),
    ):
        refused = daemon.cli("runs", "start", *words)
        assert (refused.returncode, says in refused.stderr) == (status, True), refused.stderr
