"""The config file: what is accepted, and how everything else is reported."""

import os
import time
import tracemalloc
from pathlib import Path

import pytest

from daemon.config import schema
from daemon.config.key_lines import key_lines
from daemon.config.loading import find_config, load_config
from daemon.config.paths import state_dir
from daemon.config.schema import CommandAgent, Config
from daemon.config.secrets import resolve_environment
from daemon.errors import ConfigError, SecretError
from daemon.model import Overlap

SYNC = '[agents.a]\ntype = "agentex"\nurl = "http://x"\nacp_type = "sync"\n'
GIT = "[environments.e]\nmode = 'git'\nrepository = 'r'\n[agents.a]\ncommand = ['true']\nenvironment = 'e'\n"
GOOD = '[agents.a]\ncommand = ["true"]\n'


def load(folder: Path, text: str | bytes, **environment: str) -> Config:
    file = folder / "config.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(file, environment)


def problems(folder: Path, text: str | bytes, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **environment)
    assert caught.value.exit_status == 2
    return [problem.replace(f"{folder}/config.toml", "FILE") for problem in caught.value.problems]


def agent(config: Config, name: str = "a") -> CommandAgent:
    found = config.agents[name]
    assert isinstance(found, CommandAgent)
    return found


def test_one_agent_is_all_that_is_needed(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert agent(config).max_output == 50 * 1024**2
    assert config.daemon.max_concurrent_runs == 4
    assert config.cleanup.quota_warn == 0.8
    assert config.access.admins == ["root"]


def test_the_example_is_good_and_names_every_key(tmp_path: Path) -> None:
    example = (Path(__file__).parents[2] / "config.example.toml").read_text()
    config = load(tmp_path, example)
    assert agent(config, "hello").schedules["greeting"].every is not None
    uncommented = "\n".join(line.removeprefix("# ") for line in example.splitlines())
    for model in _models():
        for key in model:
            assert f"{key} = " in uncommented or f".{key}" in uncommented or f"[{key}" in uncommented, key


def _models() -> list[list[str]]:
    return [
        list(model.model_fields)
        for model in vars(schema).values()
        if isinstance(model, type) and issubclass(model, schema.Section) and model is not schema.Section
    ]


def test_all_mistakes_are_reported_at_once_with_their_places(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
[daemon]
timezone = "Mars/Olympus"
max_concurrent_runs = 0
stat_dir = "x"

[agents.triage]
command = "claude"
timeout = "1 hour"
environment = "site"

[agents.triage.schedules.nightly]
cron = "0 2 * *"
every = "1h"
overlap = "never"

[agents.triage.schedules."Bad Name"]
every = "0s"

[retention]
days = -1
""",
    )
    assert [problem.split(" = ")[0] for problem in found] == [
        "FILE:2: daemon.timezone",
        "FILE:3: daemon.max_concurrent_runs",
        "FILE:4: daemon.stat_dir",
        "FILE:7: agents.triage.command",
        "FILE:8: agents.triage.timeout",
        "FILE:9: agents.triage.environment",
        "FILE:12: agents.triage.schedules.nightly.cron",
        "FILE:13: agents.triage.schedules.nightly.every",
        "FILE:14: agents.triage.schedules.nightly.overlap",
        "FILE:16: agents.triage.schedules.Bad Name",
        "FILE:17: agents.triage.schedules.Bad Name.every",
        "FILE:20: retention.days",
    ]
    text = "\n".join(found)
    assert "did you mean state_dir?" in text
    assert '"1 hour": not a duration' in text
    assert "should be 'skip', 'buffer_one'" in text


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("agents = 1", "should be a table"),
        ("[agents]\na = 1", "should be a table"),
        ('[agents.a]\ntype = "robot"', 'allowed are "command", "agentex", "a2a", "acp"'),
        ("[agents.a]\ncommand = []", "is empty"),
        ('[agents.a]\ncommand = [""]', "program to run"),
        ('[agents.a]\ncommand = ["a\\u0000b"]', "NUL"),
        (GOOD + 'env = { A = "a\\u0000b" }', "an environment variable cannot take"),
        (GOOD + '[notify.n]\ncommand = ["a", "b\\u0000"]', "an argument of a command cannot contain a NUL"),
        (GOOD + 'pools = ["x"]\n[pools.max]\n[pools.site]', "no [pools.x] table; defined: max, site"),
        (GOOD + 'pools = ["max", "max"]\n[pools.max]', "'max' is listed more than once"),
        (GOOD + 'pools = ["Max"]', "a name has 1 to 64 characters"),
        (GOOD + "[pools.max]\nreserve = 1", "reserve applies only to a pool with max_concurrent"),
        (GOOD + "[pools.max]\nreserve = 2\nmax_concurrent = 2", "should be less than max_concurrent, 2"),
        (GOOD + '[pools.max]\nprobe_every = "5m"', "probe_every applies only to a pool with a probe"),
        (GOOD + '[pools.max]\nprobe = ["x"]\nshare_limits = false', "has no effect with share_limits = false"),
        (GOOD + '[pools.max]\nprobe = [""]', "the first item is the program to run, and it is empty"),
        (GOOD + 'on_limit = "run"', "should be 'wait' or 'skip'"),
        ('[environments.e]\nmode = "git"\nrepository = "a\\u0000b"', "which git cannot take"),
        (
            GOOD + 'input = "argument"\n[agents.a.schedules.s]\nevery = "1h"\ninput = "\\u0000"',
            "which an argument cannot",
        ),
        ('[agents.a]\ntype = "agentex"', "the key url is missing"),
        ('[agents.a]\ntype = "a2a"\nurl = "ftp://x"', "not a URL"),
        ('[agents.a]\ntype = "a2a"\nurl = "http://x:99999"', "not a URL: Port out of range"),
        ('[agents.a]\ntype = "a2a"\nurl = "http://me:secret@x/"', "contains a user name or password"),
        (SYNC + "await_completion = true", 'has no effect with acp_type = "sync"'),
        (GOOD + "timeout = 5", "a duration is a string"),
        (GOOD + 'timeout = "0s"', 'at least "1s"'),
        (GOOD + "attempts = 1.0", "integer"),
        (GOOD + "attempts = true", "integer"),
        (GOOD + 'max_output = "5 bytes"', "not a size"),
        (GOOD + 'env = { "A B" = "x" }', "not a name of an environment variable"),
        (GOOD + 'env = { AGENTCRON_X = "x" }', "AGENTCRON_ are reserved"),
        (GOOD + 'env = { X = { file = "a\\u0000b" } }', 'a value is a string, { credential = "NAME" }'),
        (GOOD + 'env = { X = { credential = "../x" } }', "'../x' is not a name of a credential"),
        (GOOD + f'[control]\nsocket = "{"x" * 65}"', "too long for a socket; at most 64 bytes"),
        (GOOD + '[control]\nlisten = "127.0.0.1:99999"\ntokens = [{ name = "a", file = "a" }]', "HOST:PORT"),
        (
            GOOD + '[[control.tokens]]\nname="a"\nfile="a"\n[[control.tokens]]\nname="a"\nfile="b"',
            "duplicate name of a token",
        ),
        (GOOD + '[control]\ntokens = [{ name = "a" }]', "no token; set credential or file"),
        (GOOD + '[control]\ntokens = [{ name = "a", credential = "a", file = "a" }]', "both credential and file"),
        (GOOD + '[control]\ntokens = [{ name = "a", credential = "a/b" }]', "'a/b' is not a name of a credential"),
        (GOOD + '[notify.n]\nping = "http://x"\nagents = ["b"]', "no [agents.b] table"),
        (GOOD + '[agents.a.schedules.s]\nevery = "1h"\nmetadata = { display_name = 5 }', "should be a string"),
        (GOOD + '[agents.a.schedules.s]\nevery = "1h"\nstart_at = 9999-12-31T23:30:00Z', "1970 to 9000"),
        (
            GOOD + '[agents.a.schedules.s]\nevery = "1h"\nend_at = 9999-12-31T23:59:59-23:59',
            "not a valid date and time",
        ),
        (GOOD + "[retention]\ndays = 0x" + "f" * 100_000, "an integer of more than 64 bits"),
        (GOOD + "[agents.a.schedules.s]", "exactly one of cron and every"),
        (GOOD + '[agents.a.schedules.s]\ncron = "@daily"\noffset = "5m"', "offset"),
        (GOOD + '[agents.a.schedules.s]\nevery = "1h"\nstart_at = 2026-01-01T00:00:00', "an offset"),
        (GOOD + '[agents.a.schedules.s]\nevery = "1h"\nstart_at = 2026-01-01', "an offset"),
        (
            GOOD + '[agents.a.schedules.s]\nevery="1h"\nstart_at = 2026-02-01T00:00:00Z\nend_at = 2026-01-01T00:00:00Z',
            "before start_at",
        ),
        (GOOD + '[agents.a.schedules.s]\nevery = "1h"\nparams = { x = nan }', "JSON"),
        (GOOD + '[agents.a.schedules.s]\nevery = "1h"\ninput = { author = "user" }', "content is missing"),
        (GOOD + "[retention]\ndays = 0", "greater than or equal to 1"),
        (GOOD + "[retention]\ndays = 1.5", "integer"),
        (GOOD + '[retention]\nevery = "1h"\ncron = "@daily"', "both cron and every"),
        (GOOD + '[control]\nlisten = "127.0.0.1:80"', "requires tokens"),
        (GOOD + '[environments.e]\nmode = "git"', "requires repository"),
        (GOOD + '[environments.e]\nmode = "local"', "requires path"),
        (GOOD + '[environments.e]\nref = "main"', 'applies only to mode = "git"'),
        (GOOD + '[environments.e]\nworkspace = "keep"', 'workspace applies only to mode = "git"'),
        (GIT + 'git_author_name = " <>"', "needs a letter or a digit in it, on one line, without < and >"),
        (GIT + 'git_author_name = "A\\nB"', "on one line"),
        (GIT + 'git_author_email = "<a@b>"', "without < and >"),
        (GOOD + 'git_author_name = "A"', 'applies only to an agent whose environment has mode = "git"'),
        (GOOD + '[notify.n]\nurl = "http://x"\ncommand = ["x"]', "both command and url"),
        (GOOD + "[notify.n]", "no target; set command"),
        (GOOD + '[notify.n]\nurl = "apprise:x"', "not a URL of apprise; write it like"),
        (GOOD + '[notify.n]\nurl = "http://x"\napprise = { file = "x" }', "both url and apprise"),
        (GOOD + '[notify.n]\napprise = "json://x"', 'a URL without secrets is url = "apprise:..."'),
        (GOOD + "[notify.n]\napprise = { inherit = true }", '{ credential = "NAME" } or { file = "PATH" };'),
    ],
)
def test_each_rule_says_what_is_allowed(tmp_path: Path, line: str, why: str) -> None:
    assert why in "\n".join(problems(tmp_path, line))


def test_values_that_may_be_secret_are_never_shown(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        '[agents.a]\ncommand = ["x"]\ntimeout = 1\nenv = { KEY = ["hunter2"] }\n'
        'api_key = "hunter2"\napi_kee = "shown"\n'
        '[agents.b]\ntype = "a2a"\nurl = "ftp://u:hunter2@x"\nmy_secret = "hunter2"\n'
        '[environments.e]\nmode = "git"\nrepository = ["https://u:hunter2@x"]\n',
    )
    assert "hunter2" not in "\n".join(found)
    assert 'api_kee = "shown": unknown key' in "\n".join(found)
    assert len(found) == 7


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"a = " + b"[" * 5000 + b"]" * 5000, "too deeply"),
        (b".".join([b"a"] * 20_000) + b" = 1", "parts"),
        (b"[" + b".".join([b"a"] * 20_000) + b"]", "parts"),
        (b"a = " + b"9" * 5000, "digits"),
        (b"a = '\0'", "NUL"),
        (b"a = 1\nb = '\xff'", ":2: byte 0xff"),
        (b"\xef\xbb\xbf[agents.a]", "byte order mark"),
        (b"\xff\xfea", "byte order mark"),
        (b"a = 1\nb = = 2", ":2:5: not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b"x = 2026-13-45", "not valid TOML"),
        (b"", "no agent"),
    ],
)
def test_hostile_files_give_a_clear_error_quickly(tmp_path: Path, text: bytes, why: str) -> None:
    started = time.monotonic()
    assert why in "\n".join(problems(tmp_path, text))
    assert time.monotonic() - started < 2


def test_a_path_that_is_not_a_file_gives_a_clear_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, why in (
        (tmp_path, "a directory"),
        (tmp_path / "fifo", "not a regular file"),
        (tmp_path / "no", "No such"),
    ):
        with pytest.raises(ConfigError, match=why):
            load_config(path)


def test_a_file_that_is_too_large_says_what_to_do(tmp_path: Path) -> None:
    text = GOOD + "#" * (4 * 1024**2)
    with pytest.raises(ConfigError, match="is larger than 4 MiB; put long inputs into files") as raised:
        load(tmp_path, text)
    assert len(raised.value.problems) == 1


def test_of_many_mistakes_the_first_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    text = GOOD + "".join(f"unknown{number} = 1\n" for number in range(3000))
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    first_line = text.splitlines().index("unknown0 = 1") + 1
    assert len(raised.value.problems) == 1001
    assert f":{first_line}: agents.a.unknown0 = 1: unknown key" in raised.value.problems[0]
    assert f":{first_line + 999}: agents.a.unknown999" in raised.value.problems[999]
    assert raised.value.problems[1000].endswith("has 2000 more errors, which are not listed; correct these first")


def test_a_mistake_in_a_large_file_takes_little_memory() -> None:
    """Finding its line keeps nothing of the keys that are right."""
    text = GOOD + "".join(f'[agents.a.schedules.s{n}]\nevery = "1h"\ninput = ["x", {n}]\n' for n in range(20_000))
    tracemalloc.start()
    lines = key_lines(text, [("agents", "a", "schedules", "s7", "input", 1)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lines["agents", "a", "schedules", "s7", "input"] == text.splitlines().index('input = ["x", 7]') + 1
    assert len(lines) <= 7
    assert peak < 2 * 1024**2


def test_lines_are_found_through_every_way_of_writing_tables(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        '''\
# a comment with [brackets] and = signs
agents.a.command = [  # one
  "sh",
  """three
  lines""",
]
agents . "a" . timeout = 1
[agents."b"]
command = ["x"]
env = { A = { file = "x" }, B = [
  1, { c = 2 } ] }

[[control.tokens]]
name = "one"
file = "x"
[[control.tokens]]
name = "Two!"
file = "x"
''',
    )
    assert sorted(problem.split(" = ")[0] for problem in found) == [
        "FILE:10: agents.b.env.B",
        "FILE:17: control.tokens[1].name",
        "FILE:7: agents.a.timeout",
    ]


def test_variables_override_scalars_of_five_sections(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        GOOD + "[retention]\ndays = 5\n",
        AGENTCRON_RETENTION__DAYS="30",
        AGENTCRON_CLEANUP__KEEP_ON_ERROR="false",
        AGENTCRON_CLEANUP__QUOTA_WARN="0.5",
        AGENTCRON_CLEANUP__QUOTA="20GiB",
        AGENTCRON_DAEMON__STOP_TIMEOUT="5s",
        AGENTCRON_AGENTS__A__TIMEOUT="5s",
        AGENTCRON_FOO__BAR="1",
        AGENTCRON_CONFIG="x",
    )
    assert config.retention.days == 30
    assert config.cleanup.keep_on_error is False
    assert config.cleanup.quota_warn == 0.5
    assert config.daemon.stop_timeout.total_seconds() == 5
    assert agent(config).timeout.total_seconds() == 3600


def test_variables_that_are_named_like_sections_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOG", "DAEMON", "AGENTS", "RETENTION"):
        monkeypatch.setenv(name, '{"x": 1}')
    assert load(tmp_path, GOOD).log.level == "info"


def test_mistakes_in_variables_are_reported_by_name(tmp_path: Path) -> None:
    found = problems(
        tmp_path, GOOD, AGENTCRON_RETENTION__DAYS="soon", AGENTCRON_LOG__LEVEL="x", AGENTCRON_LOG__COLOUR="1"
    )
    text = "\n".join(found)
    assert 'environment variable AGENTCRON_RETENTION__DAYS = "soon": should be an integer' in text
    assert 'environment variable AGENTCRON_LOG__LEVEL = "x": should be' in text
    assert "environment variable AGENTCRON_LOG__COLOUR: unknown override; allowed are AGENTCRON_LOG__LEVEL" in text


def test_the_config_is_searched_in_the_documented_order(tmp_path: Path) -> None:
    home = tmp_path / "home"
    places = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(home)}
    with pytest.raises(ConfigError, match="agentcron init"):
        find_config(None, {"HOME": str(home)})
    (home / ".config/agentcron").mkdir(parents=True)
    (home / ".config/agentcron/config.toml").touch()
    assert find_config(None, {"HOME": str(home)}) == home / ".config/agentcron/config.toml"
    (tmp_path / "xdg/agentcron").mkdir(parents=True)
    (tmp_path / "xdg/agentcron/config.toml").touch()
    assert find_config(None, places) == tmp_path / "xdg/agentcron/config.toml"
    assert find_config(None, {**places, "AGENTCRON_CONFIG": "/x"}) == Path("/x")
    assert find_config(Path("/y"), {**places, "AGENTCRON_CONFIG": "/x"}) == Path("/y")


def test_the_state_dir_follows_the_config_then_the_service_then_the_home(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert state_dir(config, {"HOME": "/h"}) == Path("/h/.local/state/agentcron")
    assert state_dir(config, {"HOME": "/h", "XDG_STATE_HOME": "/s"}) == Path("/s/agentcron")
    assert state_dir(config, {"HOME": "/h", "STATE_DIRECTORY": "/var/lib/x"}) == Path("/var/lib/x")
    config = load(tmp_path, '[daemon]\nstate_dir = "state"\n' + GOOD)
    assert state_dir(config, {"STATE_DIRECTORY": "/var/lib/x"}) == tmp_path / "state"


def test_secrets_are_read_from_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from file\n")
    (tmp_path / "cred").write_text("from credential")
    config = load(
        tmp_path,
        GOOD + 'env = { A = { file = "key" }, B = { credential = "cred" }, C = { inherit = true }, D = "swordfish" }\n',
    )
    found = resolve_environment(
        config, agent(config).env, {"CREDENTIALS_DIRECTORY": str(tmp_path), "C": "from outside"}
    )
    assert found.values == {"A": "from file", "B": "from credential", "C": "from outside", "D": "swordfish"}
    assert set(found.hidden) == {"from file", "from credential"}
    assert "swordfish" not in repr(config.agents)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('{ file = "missing" }', "No such file"),
        ('{ credential = "x" }', "CREDENTIALS_DIRECTORY"),
        ('{ file = "binary" }', "UTF-8"),
        ('{ file = "nul" }', "NUL"),
        ('{ file = "/dev/zero" }', "not a regular file"),
        ('{ file = "fifo" }', "not a regular file"),
        ('{ file = "large" }', "larger"),
    ],
)
def test_a_secret_that_cannot_be_read_says_why(tmp_path: Path, value: str, why: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "nul").write_bytes(b"a\0b")
    (tmp_path / "large").write_bytes(b"x" * 65537)
    os.mkfifo(tmp_path / "fifo")
    config = load(tmp_path, GOOD + f"env = {{ KEY = {value} }}\n")
    with pytest.raises(SecretError, match=f"KEY: .*{why}"):
        resolve_environment(config, agent(config).env, {})


def test_a_schedule_has_the_documented_defaults(tmp_path: Path) -> None:
    schedule = agent(load(tmp_path, GOOD + '[agents.a.schedules.s]\ncron = "@daily"\ninput = "hi"\n')).schedules["s"]
    assert schedule.overlap is Overlap.SKIP
    assert schedule.catchup_window.total_seconds() == 86400
    assert (schedule.input.type, schedule.input.author, schedule.input.content) == ("text", "user", "hi")


def test_only_newlines_are_counted_as_lines(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("# one\u2028line\x85only\n" + ".".join(["a"] * 20_000) + " = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert caught.value.problems[0].startswith(f"{file}:2: ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('artifacts = ["/etc/passwd"]', "write a path below $AGENTCRON_ARTIFACTS"),
        ('artifacts = ["../x"]', "write a path below $AGENTCRON_ARTIFACTS"),
        ('artifacts = ["a", ""]', "write a path below $AGENTCRON_ARTIFACTS"),
        ('artifacts = ["**/x"]', "** is not understood"),
        ('not_output = "("', "not a regular expression as Python's re takes it: missing ), unterminated subpattern"),
        ('not_output = "a*"', "matches an empty line, so that every run would fail"),
        (f'not_output = "{"a" * 1001}"', "should have at most 1000 characters"),
        ("command = []", "is empty; add at least one item"),
        ('command = [""]', "the first item is the program to run, and it is empty"),
        ('command = ["a\\u0000"]', "an argument of a command cannot contain a NUL character"),
        ("anser = true", "unknown key; did you mean answer? allowed are answer, artifacts, command, not_output"),
    ],
)
def test_what_cannot_be_expected_of_a_run(tmp_path: Path, line: str, said: str) -> None:
    [problem] = problems(tmp_path, f"{GOOD}[agents.a.expect]\n{line}\n")
    assert problem.startswith("FILE:4: agents.a.expect.")
    assert said in problem


def test_a_cap_on_the_cost_of_a_run_that_is_not_set(tmp_path: Path) -> None:
    text = '[agents.a]\ncommand = ["claude", ["--max-budget-usd", "{max_cost_usd}"]]\n'
    [problem] = problems(tmp_path, text)
    assert problem.startswith("FILE:2: agents.a.command")
    assert problem.endswith("contains {max_cost_usd}, which nothing replaces; set max_cost_usd in [agents.a.budget]")
    assert load(tmp_path, text + "[agents.a.budget]\nmax_cost_usd = 2.5\n").agents["a"].budget.max_cost_usd == 2.5
    assert "unknown key" in problems(tmp_path, GOOD + "[budget]\nmax_cost_usd = 2.5\n")[0]


def test_a_pattern_of_which_a_later_python_may_think_otherwise_is_no_matter(tmp_path: Path) -> None:
    expect = load(tmp_path, GOOD + "[agents.a.expect]\nnot_output = '[[x]'\n").agents["a"].expect  # type: ignore[union-attr]
    assert expect.not_output == "[[x]"
