"""Lists: bounded in bytes as well as in number, without what is large unless asked, and complete over all pages."""

from collections.abc import Iterator
from typing import Any

import pytest

from daemon.cli.client import Client
from daemon.config.schema import Config
from tests.support.api import CONFIG, SCHEDULES, call, create
from tests.support.daemon_process import DaemonProcess, daemons_in

pytestmark = pytest.mark.xdist_group("pages")
LARGE = "x\u20ac\x01" * 50_000  # 500,000 bytes in the JSON of an answer
NAMES = [f"s{number}" for number in range(6)]
MOST = 2_500_000  # bytes: one page and one entry


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with schedules, revisions and runs that are all large."""
    with daemons_in(tmp_path_factory.mktemp("full")) as start:
        daemon = start(CONFIG.replace("max_concurrent = 100", "max_concurrent = 1"))
        for name in NAMES:
            create(daemon, name=name, initial_input={"content": LARGE}, task_params={"p": 1}, paused=True)
        for name in NAMES:
            metadata = {"display_name": f"{name} " + LARGE}
            changed = call(daemon, "PATCH", f"{SCHEDULES}/s0", {"task_metadata": metadata})
            assert changed.status == 200
            assert call(daemon, "POST", f"{SCHEDULES}/s0/trigger").status == 201
        yield daemon


def pages(daemon: DaemonProcess, path: str, key: str) -> list[list[Any]]:
    """Return the entries of each page of a list, none of which is larger than it may be."""
    found: list[list[Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = call(daemon, "GET", f"{path}{'&' if '?' in path else '?'}limit=100" + (cursor and f"&cursor={cursor}"))
        assert answer.status == 200, answer.data
        assert len(answer.data) < MOST
        found.append(answer.body[key])
        cursor = answer.body["next_cursor"]
    return found


def test_a_list_of_schedules_has_no_inputs_unless_asked(full: DaemonProcess) -> None:
    found = pages(full, SCHEDULES, "run_schedules")
    assert [one["name"] for one in found[0]] == ["declared", *NAMES]
    assert len(found) == 1
    assert not found[0][1].keys() & {"initial_input", "task_params", "task_metadata"}
    shown = call(full, "GET", f"{SCHEDULES}/s1").body
    assert shown["initial_input"]["content"] == LARGE
    assert {key for key in shown if key not in found[0][1]} == {"initial_input", "task_params", "task_metadata"}


def test_a_list_of_schedules_with_inputs_is_cut_into_pages(full: DaemonProcess) -> None:
    found = pages(full, f"{SCHEDULES}?inputs=true", "run_schedules")
    assert len(found) > 3
    assert [one["name"] for page in found for one in page] == ["declared", *NAMES]
    assert found[-1][-1]["initial_input"]["content"] == LARGE
    assert found[-1][-1]["task_params"] == {"p": 1}


def test_revisions_are_cut_into_pages(full: DaemonProcess) -> None:
    found = pages(full, f"{SCHEDULES}/s0/revisions", "revisions")
    assert len(found) > 3
    assert [one["version"] for page in found for one in page] == [7, 6, 5, 4, 3, 2, 1]


def test_runs_with_large_titles_are_cut_into_pages_also_in_the_status(full: DaemonProcess) -> None:
    found = pages(full, "/runs", "runs")
    triggered = [one for page in found for one in page if one["trigger"] == "manual"]  # not what a full hour started
    assert [one["display_name"][:3] for one in triggered] == [f"{name} " for name in reversed(NAMES)]
    status = call(full, "GET", "/status")
    assert len(status.data) < MOST
    assert status.body["running_total"] >= len(status.body["running"])


def test_the_command_line_follows_pages_to_its_limit(full: DaemonProcess) -> None:
    client = Client(Config(), path=full.folder / "c.sock")
    listed = client.pages(SCHEDULES, "run_schedules", 5, inputs="true")
    assert [one["name"] for one in listed["run_schedules"]] == ["declared", *NAMES[:4]]
    assert listed["total"] == 7
    assert [one["name"] for one in client.pages(SCHEDULES, "run_schedules", inputs="true")["run_schedules"]] == [
        "declared",
        *NAMES,
    ]
    shown = full.cli("schedules", "list", "--agent", "a", "--inputs", "--json")
    assert LARGE[:2] in shown.stdout
    assert LARGE[:2] not in full.cli("schedules", "list", "--agent", "a", "--json").stdout
