"""Check the rules that concern several keys, on the raw tables, so that all errors are reported at once."""

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from daemon.config.key_lines import KeyPath
from daemon.config.values import APPRISE, MAX_COST, SESSION
from daemon.rules.sessions import TWO_IN_ONE_SESSION

BrokenRule = tuple[KeyPath, str]


def cross_check(raw: dict[str, Any]) -> Iterator[BrokenRule]:
    """Yield the key path and a message for each broken rule; wrong types are left to the schema."""
    agents = _table(raw, "agents")
    if not agents:
        yield ("agents",), "no agents; add at least one [agents.NAME] table"
    for section in ("retention", "cleanup"):
        if {"cron", "every"} <= _table(raw, section).keys():
            yield (section, "cron"), "both cron and every are set; remove one of them"
    control = _table(raw, "control")
    if "listen" in control and not control.get("tokens"):
        yield (
            ("control", "listen"),
            "listening on TCP requires tokens; add tokens = [{ name = ..., credential = ... }] or file = ...",
        )
    yield from _tokens(control.get("tokens"))
    environments = _table(raw, "environments")
    for name, environment in _tables(environments):
        yield from _environment(("environments", name), environment)
    pools = _table(raw, "pools")
    for name, pool in _tables(pools):
        yield from _pool(("pools", name), pool)
    for name, agent in _tables(agents):
        yield from _agent(("agents", name), agent, environments)
        yield from _pools_of_agent(("agents", name, "pools"), agent.get("pools"), pools)
    for name, notify in _tables(_table(raw, "notify")):
        yield from _notify(("notify", name), notify, agents)


def _tokens(tokens: object) -> Iterator[BrokenRule]:
    names: list[object] = []
    for number, token in enumerate(tokens if isinstance(tokens, list) else []):
        path, keys = ("control", "tokens", number), token if isinstance(token, dict) else {}
        name = keys.get("name")
        if name is not None and name in names:
            yield (*path, "name"), "duplicate name of a token; access rights need unique names"
        names.append(name)
        if {"credential", "file"} <= keys.keys():
            yield (*path, "file"), "both credential and file are set; remove one of them"
        elif keys and not {"credential", "file"} & keys.keys():
            yield path, "no token; set credential or file"


def _target(path: KeyPath, notify: dict[str, Any]) -> Iterator[BrokenRule]:
    ways = [key for key in ("command", "url", "apprise") if key in notify]
    if len(ways) > 1:
        yield (*path, ways[-1]), f"both {ways[0]} and {ways[-1]} are set; remove one of them"
    elif not ways and "ping" not in notify:
        yield path, "no target; set command, url, apprise or ping"
    uses_apprise = "apprise" in ways or str(notify.get("url")).startswith(APPRISE)
    if uses_apprise and find_spec("apprise") is None:
        way = "pip install 'agentcron[apprise]', in the environment that agentcron is installed in"
        yield (*path, ways[-1]), f"the library apprise is not installed; install it with {way}"


def _notify(path: KeyPath, notify: dict[str, Any], agents: dict[str, Any]) -> Iterator[BrokenRule]:
    yield from _target(path, notify)
    yield from _words((*path, "command"), notify.get("command"))
    yield from _notified_agents((*path, "agents"), notify.get("agents"), agents)


def _notified_agents(path: KeyPath, names: object, agents: dict[str, Any]) -> Iterator[BrokenRule]:
    for name in names if isinstance(names, list) else []:
        if isinstance(name, str) and name != "*" and name not in agents:
            yield path, f'no [agents.{name}] table; list names of agents, or "*" for all'


def _environment(path: KeyPath, environment: dict[str, Any]) -> Iterator[BrokenRule]:
    mode = environment.get("mode", "none")
    if mode == "git" and "repository" not in environment:
        yield path, 'mode = "git" requires repository, a URL or a path'
    if mode == "local" and "path" not in environment:
        yield path, 'mode = "local" requires path, the directory to work in'
    yield from _without_nul(path, {key: environment.get(key) for key in ("repository", "ref")}, "git")
    for key, needed in (("path", "local"), ("repository", "git"), ("ref", "git"), ("workspace", "git")):
        if key in environment and mode in {"git", "local", "none"} and mode != needed:
            yield (*path, key), f'{key} applies only to mode = "{needed}"; this environment has mode = "{mode}"'


def _pool(path: KeyPath, pool: dict[str, Any]) -> Iterator[BrokenRule]:
    most, reserve = pool.get("max_concurrent"), pool.get("reserve", 0)
    if reserve and most is None:
        yield (*path, "reserve"), "reserve applies only to a pool with max_concurrent; set that too"
    elif isinstance(most, int) and isinstance(reserve, int) and reserve >= most > 0:
        yield (*path, "reserve"), f"should be less than max_concurrent, {most}, or nothing that is due could start"
    if "probe_every" in pool and "probe" not in pool:
        yield (*path, "probe_every"), "probe_every applies only to a pool with a probe; set that too"
    if "probe" in pool and pool.get("share_limits") is False:
        yield (*path, "probe"), "has no effect with share_limits = false, since no login closes this pool; remove one"
    yield from _words((*path, "probe"), pool.get("probe"))


def _pools_of_agent(path: KeyPath, names: object, pools: dict[str, Any]) -> Iterator[BrokenRule]:
    found = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    for name in dict.fromkeys(found):
        if name not in pools:
            known = ", ".join(sorted(pools)) or "none"
            yield path, f"no [pools.{name}] table; defined: {known}"
        if found.count(name) > 1:
            yield path, f"{name!r} is listed more than once; a run holds one place in each pool"


def _agent(path: KeyPath, agent: dict[str, Any], environments: dict[str, Any]) -> Iterator[BrokenRule]:
    if agent.get("acp_type") == "sync" and agent.get("await_completion") is True:
        text = 'has no effect with acp_type = "sync", whose reply ends the run; remove it, or use acp_type = "agentic"'
        yield (*path, "await_completion"), text
    if _has_password(agent.get("url")):
        yield (*path, "url"), "contains a user name or password, which would be displayed and logged; use api_key"
    environment = agent.get("environment") if agent.get("type", "command") in {"command", "acp"} else None
    if isinstance(environment, str) and environment not in environments:
        known = ", ".join(sorted(environments)) or "none"
        yield (*path, "environment"), f"no [environments.{environment}] table; defined: {known}"
    yield from _author(path, agent, environments)
    yield from _words((*path, "command"), agent.get("command"))
    yield from _session_arguments((*path, "command"), agent.get("command"), agent)
    yield from _cap(path, agent)
    yield from _words((*path, "expect", "command"), _table(agent, "expect").get("command"))
    yield from _without_nul((*path, "env"), _table(agent, "env"), "an environment variable")
    for name, server in _tables(_table(agent, "mcp_servers")):
        yield from _mcp_server((*path, "mcp_servers", name), server)
    for name, schedule in _tables(_table(agent, "schedules")):
        yield from _schedule((*path, "schedules", name), schedule)
        yield from _session((*path, "schedules", name), schedule, agent)
        if agent.get("input") == "argument" and _has_nul(_content(schedule.get("input"))):
            text = 'contains a NUL character, which an argument cannot; remove it, or use input = "stdin" or "file"'
            yield (*path, "schedules", name, "input"), text


def _mcp_server(path: KeyPath, server: dict[str, Any]) -> Iterator[BrokenRule]:
    if {"command", "url"} <= server.keys():
        yield (*path, "url"), "both command and url are set; remove one of them"
    elif not {"command", "url"} & server.keys():
        yield path, "no server; set command or url"
    for key, needed in (("env", "command"), ("headers", "url"), ("transport", "url")):
        if key in server and needed not in server:
            yield (*path, key), f"applies only to a server with {needed}"
    yield from _words((*path, "command"), server.get("command"))
    yield from _without_nul((*path, "env"), _table(server, "env"), "an environment variable")
    if _has_password(server.get("url")):
        yield (*path, "url"), "contains a user name or password, which would be displayed and logged; use headers"


def _has_password(url: object) -> bool:
    return isinstance(url, str) and re.match(r"https?://[^/]*@", url) is not None


def _author(path: KeyPath, agent: dict[str, Any], environments: dict[str, Any]) -> Iterator[BrokenRule]:
    environment = agent.get("environment")
    is_git = isinstance(environment, str) and _table(environments, environment).get("mode") == "git"
    for key in ("git_author_name", "git_author_email"):
        if key in agent and agent.get("type", "command") in {"command", "acp"} and not is_git:
            yield (*path, key), 'applies only to an agent whose environment has mode = "git"'


def _cap(path: KeyPath, agent: dict[str, Any]) -> Iterator[BrokenRule]:
    command = agent.get("command")
    items = command[1:] if isinstance(command, list) else []
    words = (str(word) for item in items for word in (item if isinstance(item, list) else [item]))
    if "max_cost_usd" not in _table(agent, "budget") and any(MAX_COST.search(word) for word in words):
        table = ".".join(map(str, (*path, "budget")))
        yield (*path, "command"), f"contains {{max_cost_usd}}, which nothing replaces; set max_cost_usd in [{table}]"


def _words(path: KeyPath, command: object) -> Iterator[BrokenRule]:
    items = command if isinstance(command, list) else []
    if items[:1] == [""]:
        yield path, "the first item is the program to run, and it is empty"
    if any(_has_nul(word) for item in items for word in (item if isinstance(item, list) else [item])):
        yield path, "an argument of a command cannot contain a NUL character"


def _without_nul(path: KeyPath, values: dict[str, Any], what: str) -> Iterator[BrokenRule]:
    for key, value in values.items():
        if _has_nul(value):
            yield (*path, key), f"contains a NUL character, which {what} cannot take"


def _has_nul(value: object) -> bool:
    return isinstance(value, str) and "\0" in value


def _content(value: object) -> object:
    return value.get("content") if isinstance(value, dict) else value


def _schedule(path: KeyPath, schedule: dict[str, Any]) -> Iterator[BrokenRule]:
    cadences = {"cron", "every"} & schedule.keys()
    if not cadences:
        yield path, "not scheduled; set exactly one of cron and every"
    elif len(cadences) > 1:
        yield (*path, "every"), "both cron and every are set; remove one of them"
    if "offset" in schedule and "every" not in schedule:
        yield (*path, "offset"), "offset applies only to every, not to cron"
    for key in ("params", "metadata"):
        if key in schedule and not _is_json(schedule[key]):
            yield (
                (*path, key),
                "contains nan, inf or another value that JSON lacks; agents receive it as JSON",
            )
    title = _table(schedule, "metadata").get("display_name", "")
    if not isinstance(title, str):
        yield (*path, "metadata", "display_name"), "should be a string"
    start, end = schedule.get("start_at"), schedule.get("end_at")
    if _is_after(start, end):
        yield (*path, "end_at"), "is before start_at, so the schedule would never be due"


def _session(path: KeyPath, schedule: dict[str, Any], agent: dict[str, Any]) -> Iterator[BrokenRule]:
    kind, continues = agent.get("type", "command"), schedule.get("session") == "continue"
    if continues and kind in {"agentex", "a2a"}:
        yield (*path, "session"), f'"continue" applies only to agents of type command and acp; this one is {kind}'
    if continues and schedule.get("overlap") == "allow_all":
        yield (*path, "session"), TWO_IN_ONE_SESSION
    for key in ("session_max_age", "session_max_runs"):
        if key in schedule and not continues:
            yield (*path, key), 'applies only to a schedule with session = "continue"'


def _session_arguments(path: KeyPath, command: object, agent: dict[str, Any]) -> Iterator[BrokenRule]:
    """Check the array and the `{session}` in a command: only an argument can be left out, and only of a command."""
    items = command if isinstance(command, list) else []
    first = items[0] if items else ""
    if isinstance(first, list) or (isinstance(first, str) and SESSION.search(first)):
        yield path, "the first item is the program to run, which is always there; write it as plain text"
    if agent.get("type") == "acp" and any(isinstance(item, list) for item in items):
        yield path, "an array within a command applies only to agents of type command; acp has session/load instead"


def _is_after(start: Any, end: Any) -> bool:  # noqa: ANN401 - raw values of any type
    try:
        return start is not None and end is not None and bool(start > end)
    except TypeError:  # different types: the schema reports which one is wrong
        return False


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False, default=str)
    except (ValueError, RecursionError):
        return False
    return True


def _table(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _tables(parent: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, value) for name, value in parent.items() if isinstance(value, dict))
