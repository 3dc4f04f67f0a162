"""Command agents as real processes under a real daemon: what they get, how they end, what is kept."""

import json
import os
import shutil
import signal
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.configs import EACH_SECOND, SELDOM, config_text, one_agent
from tests.support.daemon_process import StartDaemon, processes_of
from tests.support.runs import ended
from tests.support.shell_agents import side_by_side
from tests.support.waiting import wait_until


def seconds_taken(run: dict[str, object]) -> float:
    start, end = (datetime.fromisoformat(str(run[key])) for key in ("started_at", "completed_at"))
    return (end - start).total_seconds()


def test_the_command_gets_its_input_and_the_named_environment_only(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret-value\n")
    text = one_agent(
        "env | sort; pwd; cat; umask; touch $TMPDIR/x $AGENTCRON_ARTIFACTS/y",
        env={"KEY": {"file": "key"}, "MODE": "ci", "OUTSIDE": {"inherit": True}},
        schedule={"input": "the input\n"},
    )
    daemon = start_daemon(text, OUTSIDE="from outside", HIDDEN="never seen", LANG="C.UTF-8")
    run = ended(daemon)
    folder = daemon.state / "runs" / "1"
    lines = daemon.output(1).splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    assert run["status"] == "completed"
    assert set(found) - {"PWD", "SHLVL", "_", "OLDPWD"} == {
        *("PATH", "HOME", "USER", "LANG", "TMPDIR", "KEY", "MODE", "OUTSIDE"),
        *("AGENTCRON_RUN_ID", "AGENTCRON_RUN_NAME", "AGENTCRON_AGENT", "AGENTCRON_SCHEDULE", "AGENTCRON_ATTEMPT"),
        *("AGENTCRON_SCHEDULED_FOR", "AGENTCRON_TRIGGER", "AGENTCRON_IDEMPOTENCY_KEY", "AGENTCRON_WORKSPACE"),
        *("AGENTCRON_INPUT", "AGENTCRON_PARAMS", "AGENTCRON_METADATA", "AGENTCRON_ARTIFACTS", "AGENTCRON_RESULT"),
    }
    assert found["KEY"] == "***"
    assert found["OUTSIDE"] == "from outside"
    assert found["AGENTCRON_RUN_NAME"] == run["name"] == f"scheduled-run:1:{run['scheduled_for']}"
    assert found["AGENTCRON_WORKSPACE"] == str(folder / "work")
    assert lines[-3:] == [str(folder / "work"), "the input", f"{os.umask(os.umask(0o22)):04o}"]
    assert (folder / "artifacts/y").exists()


def test_temporary_files_go_when_the_run_has_ended(start_daemon: StartDaemon) -> None:
    script = "mkdir -p $TMPDIR/a/b; touch $TMPDIR/a/b/c ../stdout.tail; chmod 0 $TMPDIR/a; ls ..; exit 3"
    daemon = start_daemon(one_agent(script, schedule={"every": SELDOM}))
    daemon.cli("runs", "start", "a", "--wait")
    assert ended(daemon)["status"] == "failed"
    assert {"stdout.tail", "tmp"} < set(daemon.output(1).split())
    assert {"artifacts", "input.txt", "output.log"} <= _names_in(daemon.state / "runs/1")
    assert not {"stdout.tail", "tmp"} & _names_in(daemon.state / "runs/1")
    assert _names_in(daemon.state / "runs/.trash") == set()


def test_many_temporary_files_are_left_to_the_cleanup(start_daemon: StartDaemon) -> None:
    script = "cd $TMPDIR; mkdir d; seq -f d/%g 2000 | xargs touch"
    daemon = start_daemon(one_agent(script, schedule={"every": SELDOM}))
    assert daemon.cli("runs", "start", "a", "--wait").returncode == 0
    assert "tmp" not in _names_in(daemon.state / "runs/1")
    [trashed] = (daemon.state / "runs/.trash").iterdir()
    assert 0 < len(_names_in(trashed / "d")) < 2000
    assert daemon.cli("workspaces", "clean").returncode == 0
    assert _names_in(daemon.state / "runs/.trash") == set()


@pytest.mark.parametrize("instead", ["ln -s {0} tmp", "touch tmp", "mkdir tmp .t; mv .t/ ../.trash; ln -s {0} tmp/x"])
def test_what_an_agent_puts_in_place_of_its_temporary_files_harms_nothing(
    start_daemon: StartDaemon, tmp_path: Path, instead: str
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    daemon = start_daemon(one_agent(f"cd ..; rm -r tmp; {instead.format(tmp_path / 'precious')}; echo done"))
    assert ended(daemon)["status"] == "completed"
    assert _names_in(tmp_path / "precious") == {"file"}


def _names_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_the_command_gets_its_params_and_metadata_as_json_files(start_daemon: StartDaemon) -> None:
    schedule = {"params": {"model": "grüße", "depth": 3}, "metadata": {"team": "ops"}}
    daemon = start_daemon(one_agent('cat "$AGENTCRON_PARAMS"; echo; cat "$AGENTCRON_METADATA"', schedule=schedule))
    run = ended(daemon)
    params, metadata = map(json.loads, daemon.output(1).splitlines())
    assert params == schedule["params"]
    assert metadata == json.loads(run["task_metadata"])
    assert (metadata["team"], metadata["trigger_type"]) == ("ops", "scheduled")
    for name in ("params.json", "metadata.json"):
        assert (daemon.state / "runs/1" / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("way", "script"),
    [("argument", 'printf %s "$0"'), ("file", 'cat "$AGENTCRON_INPUT"; [ -z "$(cat)" ] || echo also on stdin')],
)
def test_the_other_ways_of_input(start_daemon: StartDaemon, way: str, script: str) -> None:
    daemon = start_daemon(one_agent(script, input=way, schedule={"input": "grüße \n $x"}))
    assert ended(daemon)["status"] == "completed"
    assert daemon.output(1) == "grüße \n $x"


def test_a_local_environment_is_worked_in_and_left_alone(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    text = one_agent("pwd; touch made", environment="site") + '[environments.site]\nmode = "local"\npath = "site"\n'
    daemon = start_daemon(text)
    ended(daemon)
    assert daemon.output(1) == f"{tmp_path}/site\n"
    assert (tmp_path / "site/made").exists()


BAD = "its report cannot be used: the result file"
STATUS = 'has a status other than "completed" and "failed"'
ENDS = {
    "exit 0": ("completed", 0, None, None),
    "exit 7": ("failed", 7, None, "exit status 7"),
    "kill -9 $$": ("failed", None, 9, "ended by signal 9"),
    "kill -SEGV $$": ("failed", None, 11, "ended by signal 11"),
    """echo '{"status": "failed", "message": "none"}' > $AGENTCRON_RESULT""": ("failed", 0, None, "none"),
    """echo '{"status": "completed"}' > $AGENTCRON_RESULT; exit 3""": ("completed", 3, None, None),
    "echo nonsense > $AGENTCRON_RESULT": (
        "failed",
        0,
        None,
        f"{BAD} is not JSON: Expecting value: line 1 column 1 (char 0)",
    ),
    "mkfifo $AGENTCRON_RESULT": ("failed", 0, None, f"{BAD} cannot be read: not a regular file"),
    "head -c 1048577 /dev/zero > $AGENTCRON_RESULT": ("failed", 0, None, f"{BAD} is larger than 1 MiB"),
    "echo [] > $AGENTCRON_RESULT": ("failed", 0, None, f"{BAD} is not a JSON object"),
    """echo '{"status": "done"}' > $AGENTCRON_RESULT""": ("failed", 0, None, f"{BAD} {STATUS}"),
    """echo '{"status": "done"}' > $AGENTCRON_RESULT; exit 5""": ("failed", 5, None, f"exit status 5; {BAD} {STATUS}"),
    """echo '{"usage": 5}' > $AGENTCRON_RESULT""": ("completed", 0, None, None),
    "touch $AGENTCRON_RESULT": ("completed", 0, None, None),
    "ln -s /etc/passwd $AGENTCRON_RESULT; exit 1": ("failed", 1, None, f"exit status 1; {BAD} is a symbolic link"),
}


def test_how_a_command_ended_is_recorded(start_daemon: StartDaemon) -> None:
    runs = side_by_side(start_daemon, list(ENDS))
    for (script, expected), run in zip(ENDS.items(), runs, strict=True):
        assert (run["status"], run["exit_code"], run["signal"], run["error"]) == expected, script


def test_a_command_that_cannot_start_fails_with_the_reason(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(
        config_text(agents={"a": {"command": ["no-such-program"], "attempts": 3, "schedules": EACH_SECOND}})
    )
    run = ended(daemon)
    assert run["status"] == "failed"  # not continued: another attempt could not end otherwise
    assert run["error"] == "cannot start 'no-such-program': No such file or directory"
    assert run["exit_code"] is None


def test_an_unreadable_secret_fails_the_run_with_the_reason(start_daemon: StartDaemon) -> None:
    run = ended(start_daemon(one_agent("echo never", env={"KEY": {"file": "missing"}})))
    assert run["status"] == "failed"
    assert "KEY: cannot read" in str(run["error"])
    assert run["delivered_at"] is None


def test_a_variable_that_there_is_not_to_inherit_fails_the_run_with_the_reason(start_daemon: StartDaemon) -> None:
    run = ended(start_daemon(one_agent("echo never", env={"NOT_SET": {"inherit": True}})))
    assert run["status"] == "failed"
    assert "NOT_SET: is not set in the daemon's environment" in str(run["error"])
    assert run["delivered_at"] is None


def test_usage_is_stored(start_daemon: StartDaemon) -> None:
    result = json.dumps({"usage": {"input_tokens": 5, "output_tokens": 7, "cost_usd": 0.25}, "message": "done"})
    run = ended(start_daemon(one_agent(f"echo '{result}' > $AGENTCRON_RESULT")))
    assert (run["input_tokens"], run["output_tokens"], run["cost_usd"], run["message"]) == (5, 7, 0.25, "done")


SENSELESS = [
    '{"input_tokens": -1}',
    '{"cost_usd": NaN}',
    '{"input_tokens": "5"}',
    "[]",
    '{"cost_usd": 1e400}',
    '{"input_tokens": 4611686018427387903}',
    '{"cost_usd": 1e12}',
]


def test_senseless_usage_is_left_out(start_daemon: StartDaemon) -> None:
    scripts = [f"""echo '{{"usage": {usage}}}' > $AGENTCRON_RESULT""" for usage in SENSELESS]
    for usage, run in zip(SENSELESS, side_by_side(start_daemon, scripts), strict=True):
        assert (run["status"], run["input_tokens"], run["cost_usd"]) == ("completed", None, None), usage
        assert "usage" in str(run["message"]), usage


CLAUDE = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "result": "All done.",
    "total_cost_usd": 0.0123,
    "usage": {"input_tokens": 3, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 9},
}


PRINTED = [
    (json.dumps(CLAUDE), "completed", "All done."),
    (json.dumps(CLAUDE, indent=2), "completed", "All done."),
    ('{"type": "system"}\nsome warning\n' + json.dumps(CLAUDE), "completed", "All done."),
    (json.dumps([{"type": "system"}, CLAUDE]), "completed", "All done."),
    (json.dumps({**CLAUDE, "is_error": True, "result": "Out of turns"}), "failed", "Out of turns"),
]


def test_the_json_that_claude_prints_is_understood(start_daemon: StartDaemon, tmp_path: Path) -> None:
    for number, (printed, _, _) in enumerate(PRINTED):
        (tmp_path / f"printed{number}").write_text(printed)
    scripts = [f"cat {tmp_path}/printed{number}" for number in range(len(PRINTED))]
    runs = side_by_side(start_daemon, scripts, result_format="claude")
    for (_, status, message), run in zip(PRINTED, runs, strict=True):
        assert (run["status"], run["message"]) == (status, message)
        assert (run["input_tokens"], run["output_tokens"], run["cost_usd"]) == (113, 9, 0.0123)


def test_standard_error_is_no_result(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "printed").write_text(json.dumps(CLAUDE))
    forged = json.dumps({**CLAUDE, "is_error": True, "result": "forged"})
    script = f"cat {tmp_path}/printed; echo '{forged}' >&2"
    run = ended(start_daemon(one_agent(script, result_format="claude", max_output="10B")))
    assert (run["status"], run["message"], run["output_tokens"]) == ("completed", "All done.", 9)


def test_what_an_agent_says_cannot_break_the_record(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent(r"""printf '{"message": "a\\ud800b"}' > $AGENTCRON_RESULT"""))
    run = ended(daemon)
    assert (run["status"], run["message"]) == ("completed", "a?b")
    ended(daemon, 2)


def test_a_result_that_is_missing_where_one_is_expected_fails_the_run(start_daemon: StartDaemon) -> None:
    run = ended(start_daemon(one_agent("echo done", result_format="claude")))
    missing = "no JSON result at the end of the standard output (result_format = claude)"
    assert (run["status"], run["exit_code"]) == ("failed", 0)
    assert run["error"] == f"its report cannot be used: {missing}"


def test_an_ignored_report_is_reported_with_the_run(start_daemon: StartDaemon) -> None:
    run = ended(start_daemon(one_agent("echo '{' > $AGENTCRON_RESULT", on_bad_report="ignore")))
    assert run["status"] == "completed"
    assert "its report was ignored: the result file is not JSON" in str(run["message"])


def test_a_command_that_cannot_start_just_now_is_started_later(start_daemon: StartDaemon, tmp_path: Path) -> None:
    program = tmp_path / "agent"
    shutil.copy("/bin/true", program)
    with program.open("ab"):  # a file that is being written cannot be executed: ETXTBSY
        daemon = start_daemon(config_text(agents={"a": {"command": [str(program)], "schedules": EACH_SECOND}}))
        event = daemon.wait_for_log("[run] Run pending")
        assert "Text file busy" in event["error"]
    run = daemon.wait_for_run("completed", number=event["run_id"])
    assert run["attempt"] == 1


_OF_THE_C_LIBRARY = 0x180000000  # signals 32 and 33, which posix_spawn(3) leaves ignored in every process


def test_a_command_starts_with_default_signals_and_three_descriptors(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(
        one_agent("ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; cat /proc/$$/oom_score_adj")
    )
    ended(daemon)
    lines = daemon.output(1).split()
    assert lines[:5] == ["0", "1", "2", "3", "SigBlk:"]  # 3 is the folder that ls reads
    assert lines[5:7] == ["0" * 16, "SigIgn:"]
    assert int(lines[7], 16) & ~_OF_THE_C_LIBRARY == 0
    assert int(lines[8]) >= 500


def test_a_relative_program_lies_beside_the_config(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "agent.sh").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "agent.sh").chmod(0o755)
    (tmp_path / "broken.sh").write_text("#!/no/such/interpreter\n")
    (tmp_path / "broken.sh").chmod(0o755)
    agents = "".join(
        f"[agents.{name}]\ncommand = ['./{name}.sh']\n[agents.{name}.schedules.s]\nevery = '1s'\n"
        for name in ("agent", "broken")
    )
    daemon = start_daemon(agents)
    daemon.wait_for_row("SELECT 1 FROM runs WHERE agent = 'agent' AND status = 'completed'")
    broken = daemon.wait_for_row("SELECT error FROM runs WHERE agent = 'broken' AND status = 'failed'")
    assert "interpreter" in broken["error"]


def test_a_long_reason_in_any_script_fits_the_record(start_daemon: StartDaemon) -> None:
    run = ended(start_daemon(config_text(agents={"a": {"command": ["é" * 2000], "schedules": EACH_SECOND}})))
    assert run["status"] == "failed"
    assert str(run["error"]).startswith("cannot start 'é")


def test_a_timeout_of_months_is_no_trouble(start_daemon: StartDaemon) -> None:
    assert ended(start_daemon(one_agent("exit 3", timeout="365d", idle_timeout="365d")))["exit_code"] == 3


def test_the_exit_status_survives_what_cannot_be_written_after_it(start_daemon: StartDaemon) -> None:
    script = "mkdir ../output.tail ../report.json ../answer.txt; seq 1 1000; exit 7"
    run = ended(start_daemon(one_agent(script, max_output="100B", result_format="claude")))
    assert (run["status"], run["exit_code"]) == ("failed", 7)
    assert run["output_dropped"] == run["output_bytes"] - 50


def test_streams_cannot_break_each_others_secrets(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2-hunter2")
    said = '{"type": "result", "result": "hunter2-'
    script = f"printf '{said}'; sleep 0.6; printf '[err]' >&2; sleep 0.6; printf 'hunter2\"}}'"
    daemon = start_daemon(one_agent(script, env={"KEY": {"file": "key"}}, result_format="claude"))
    ended(daemon)
    assert daemon.output(1) == '{"type": "result", "result": "[err]***"}'
    assert (daemon.state / "runs/1/answer.txt").read_text() == "***"


# limits


def test_timeout_and_grace_are_kept(start_daemon: StartDaemon) -> None:
    text = one_agent("trap '' TERM; while :; do sleep 0.1; done", timeout="1s", kill_grace="1s")
    run = ended(start_daemon(text))
    assert run["status"] == "failed"
    assert "timeout" in str(run["error"])
    assert run["signal"] == signal.SIGKILL
    assert 2 <= seconds_taken(run) < 6


def test_idle_timeout_counts_from_the_last_output(start_daemon: StartDaemon) -> None:
    run = ended(start_daemon(one_agent("for i in 1 2 3; do echo $i; sleep 1.2; done; sleep 60", idle_timeout="2s")))
    assert run["status"] == "failed"
    assert run["error"] == "idle timeout: no output for longer than its idle_timeout of 2s"
    assert 4.4 <= seconds_taken(run) < 8


HOSTILE = {
    "ignores TERM": "trap '' TERM; sleep 300",
    "double fork": "(setsid sh -c 'sleep 300 & sleep 300' &) ; exit 0",
    "five sessions": "for i in 1 2 3 4 5; do setsid sh -c 'trap \"\" TERM; sleep 300; sleep 300' & done; exit 0",
    "holds the output": "(trap '' TERM; exec sleep 300) & exit 0",
    "cleared environment": "env -i setsid sh -c 'sleep 300 & sleep 300' & exit 0",
    "stops itself": "kill -STOP $$; sleep 300",
    "zombies": "python3 -c 'import os,time\nfor i in range(20):\n  os.fork() or os._exit(0)\ntime.sleep(300)'",
    "closed output": "exec >&- 2>&-; sleep 300",
}


def test_nothing_is_left_of_a_hostile_agent(start_daemon: StartDaemon, tmp_path: Path) -> None:
    runs = side_by_side(start_daemon, list(HOSTILE.values()), timeout="1s", kill_grace="1s")
    for (name, script), run in zip(HOSTILE.items(), runs, strict=True):
        assert run["status"] == ("completed" if "exit 0" in script else "failed"), name
        assert seconds_taken(run) < 8, name
        assert processes_of(str(run["idempotency_key"])) == [], name
        folder = tmp_path / f"state/runs/{run['id']}"
        assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if _is_in(path, folder)] == [], name


def _is_in(cmdline: Path, folder: Path) -> bool:
    """Tell whether a process works below a folder, whatever became of its environment."""
    try:
        return (cmdline.parent / "cwd").resolve().is_relative_to(folder)
    except OSError:
        return False


def test_the_log_stays_one_event_a_line_whatever_agents_say(start_daemon: StartDaemon) -> None:
    forged = r'{"status": "failed", "message": "\u001b[2J\n{\"event\": \"[run] forged\"}\r\u2028end"}'
    daemon = start_daemon(one_agent(f"printf '%s' '{forged}' > $AGENTCRON_RESULT"))
    ended(daemon)
    event = daemon.wait_for_log("[run] Run failed", run_id=1)
    assert "forged" in event["error"]
    text = daemon.log_text()
    assert "\x1b" not in text
    assert all(json.loads(line) for line in text.split("\n") if line)
    assert not [event for event in daemon.log() if event["event"] == "[run] forged"]


def test_the_log_for_people_is_one_event_a_line_too(start_daemon: StartDaemon) -> None:
    text = one_agent("""printf '{"status": "failed", "message": "a\\\\nb=c\\\\u001b[31m"}' > $AGENTCRON_RESULT""")
    daemon = start_daemon('[log]\nformat = "console"\n' + text, ready=False)
    wait_until(lambda: "Run failed" in daemon.log_text(), what="a failed run in the log")
    line = next(line for line in daemon.log_text().splitlines() if "Run failed" in line)
    assert r"a\\nb=c" in line
    assert "\x1b" not in daemon.log_text()
