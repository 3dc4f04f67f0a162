"""Valid settings that do not do what they seem to are named by check, and by a start and a reload."""

from pathlib import Path

import pytest

from daemon.config.loading import load_config
from daemon.doctor.settings import check_settings
from daemon.schedules.surprises import find_surprises
from tests.support.daemon_process import StartDaemon

AGENT = '[agents.a]\ncommand = ["true"]\n'
REMOTE = '[agents.a]\ntype = "agentex"\nurl = "http://127.0.0.1:1"\n'


def found(tmp_path: Path, text: str) -> list[tuple[str, str]]:
    (tmp_path / "config.toml").write_text(text)
    config = load_config(tmp_path / "config.toml", {})
    surprises = [(one.about.removeprefix("agents.a."), one.what) for one in find_surprises(config)]
    told = [
        (one.about.removeprefix("agents.a."), one.what) for one in check_settings(config, {"PATH": "/bin:/usr/bin"})
    ]
    assert set(surprises) <= set(told)
    return surprises


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('every = "1h"\njitter = "30m"', None),
        ('every = "1h"\njitter = "31m"', "as little as 1h apart, and a start is delayed by at most half of that, 30m"),
        ('cron = "*/5 9-17 * * 1-5"\njitter = "3m"', "as little as 5m apart"),
        ('cron = "0 2 * * *"\njitter = "2h"', None),
        ('cron = "0 7 * * 1"', None),
        ('cron = "0 7 * * 1"\ncatchup_window = "24h"', "due times are up to 7d apart"),
        ('cron = "0 7 * * 1"\ncatchup_window = "24h"\ncatchup = "none"', None),
        ('cron = "0 7 * * 1"\ncatchup_window = "7d"', None),
        ('cron = "*/5 * * * *"\ncatchup_window = "1h"', None),
        ('cron = "*/5 9-17 * * *"\ncatchup_window = "1h"', "due times are up to 15h5m apart"),
        ('every = "12h"\ncatchup_window = "1h"', "due times are up to 12h apart"),
    ],
)
def test_a_jitter_and_a_window_that_do_not_fit_the_cadence(tmp_path: Path, keys: str, said: str | None) -> None:
    what = [text for _, text in found(tmp_path, f"{AGENT}[agents.a.schedules.s]\n{keys}\n")]
    assert len(what) == (said is not None)
    assert said is None or said in what[0]


@pytest.mark.parametrize(
    ("agent", "named"),
    [
        (AGENT, {"budget.cost_usd_per_day", "budget.tokens_per_day"}),
        (AGENT + 'result_format = "claude"\n', set()),
        (AGENT + 'result_format = "opencode"\n', set()),
        (AGENT + 'result_format = "codex"\n', {"budget.cost_usd_per_day"}),
        (AGENT.replace("command =", 'type = "acp"\ncommand ='), set()),
        (REMOTE, {"budget.cost_usd_per_day", "budget.tokens_per_day"}),
        (REMOTE + 'acp_type = "sync"\n', set()),
    ],
)
def test_a_budget_of_what_runs_never_report(tmp_path: Path, agent: str, named: set[str]) -> None:
    budget = "[agents.a.budget]\nruns_per_day = 3\ncost_usd_per_day = 1.0\ntokens_per_day = 5\n"
    assert {about for about, _ in found(tmp_path, agent + budget)} == named


@pytest.mark.parametrize(
    ("agent", "is_told"),
    [
        (AGENT, False),
        (AGENT + 'result_format = "codex"\n', False),
        (AGENT + 'result_format = "claude"\n', True),
        (REMOTE, False),
        (REMOTE + 'acp_type = "sync"\n', True),
    ],
)
def test_a_budget_of_the_host_that_does_not_count_an_agent(tmp_path: Path, agent: str, *, is_told: bool) -> None:
    said = [what for _, what in found(tmp_path, agent + "[budget]\ncost_usd_per_day = 1.0\nruns_per_day = 9\n")]
    untold = "runs of a do not report it by themselves, so this limit may be reached too late"
    assert said == ([] if is_told else [untold])


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (AGENT, "the command does not contain {max_cost_usd}, so nothing keeps to it"),
        (AGENT.replace('"true"', '"claude", "--max-budget-usd={max_cost_usd}"'), None),
        (REMOTE, "no agent behind a url is told of it, so nothing keeps to it"),
    ],
)
def test_a_cap_that_nothing_is_told_of(tmp_path: Path, agent: str, said: str | None) -> None:
    told = found(tmp_path, agent + "[agents.a.budget]\nmax_cost_usd = 1.0\n")
    assert told == ([("budget.max_cost_usd", said)] if said else [])


def test_a_start_and_a_reload_warn_of_it(start_daemon: StartDaemon) -> None:
    schedule = '[daemon]\nstate_dir = "state"\n' + AGENT + "[agents.a.schedules.{}]\nevery = '1h'\njitter = '50m'\n"
    daemon = start_daemon(schedule.format("s"))
    daemon.wait_for_log("[config] Probably a mistake", setting="agents.a.schedules.s.jitter")
    daemon.config.write_text(schedule.format("t"))
    said = daemon.cli("reload").stderr
    assert said.startswith("warning: agents.a.schedules.t.jitter: due times are as little as 1h apart")


def test_a_pool_that_no_agent_uses_and_a_probe_that_does_not_exist_are_named(tmp_path: Path) -> None:
    text = f'{AGENT}pools = ["used"]\n[pools.used]\nprobe = ["no-such-program"]\n[pools.unused]\n'
    assert found(tmp_path, text) == [("pools.unused", "no agent uses this pool")]
    told = [(one.about, one.what) for one in check_settings(load_config(tmp_path / "config.toml", {}))]
    assert ("pools.used.probe", "no executable program 'no-such-program' found") in told


CLAUDE = '[agents.a]\nresult_format = "claude"\ncommand = ["true", "-p", "--output-format", '


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (CLAUDE + '"json"]\nidle_timeout = "1h"', "prints nothing before its end"),
        (CLAUDE.replace('format", ', 'format=json"') + ']\nidle_timeout = "1h"', "prints nothing before its end"),
        (CLAUDE + '"json"]', None),
        (CLAUDE + '"stream-json"]\nidle_timeout = "5m"', None),
        (CLAUDE + '"stream-json"]\nidle_timeout = "299s"', "for minutes while it waits for its provider"),
        ('[agents.a]\ncommand = ["true"]\nidle_timeout = "10s"', None),
    ],
)
def test_an_idle_timeout_that_ends_healthy_runs(tmp_path: Path, keys: str, said: str | None) -> None:
    what = [text for about, text in found(tmp_path, keys) if about == "idle_timeout"]
    assert len(what) == (said is not None)
    assert said is None or said in what[0]


@pytest.mark.parametrize(
    ("keys", "is_said"),
    [
        ('command = ["true"]\ninput = "argument"', True),
        ('command = ["true", "--"]\ninput = "argument"', False),
        ('command = ["true"]', False),
    ],
)
def test_an_input_that_may_be_taken_for_an_option(tmp_path: Path, keys: str, is_said: bool) -> None:
    schedule = '[agents.a.schedules.s]\nevery = "1h"\ninput = "- look at the issues"\n'
    assert bool(found(tmp_path, f"[agents.a]\n{keys}\n{schedule}")) is is_said


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ('["--resume", "{session}"]', "local", []),
        ('"--verbose"', "local", ["its command has no {session}"]),
        ('"--resume={session}"', "git", ["finds a session only in the directory where it began"]),
    ],
)
def test_a_session_that_cannot_be_continued_is_found(
    tmp_path: Path, arguments: str, environment: str, said: list[str]
) -> None:
    text = f"""
[environments.local]
mode = "local"
path = "."
[environments.git]
mode = "git"
repository = "/origin"
[agents.a]
command = ["claude", "-p", "--output-format", "json", {arguments}]
environment = "{environment}"
[agents.a.schedules.s]
every = "1h"
session = "continue"
"""
    surprises = found(tmp_path, text)
    assert len(surprises) == len(said)
    assert all(words in what for words, (_, what) in zip(said, surprises, strict=True))
