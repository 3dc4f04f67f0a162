"""Config files for tests, written from Python values."""

import json
from collections.abc import Iterator, Mapping, Sequence

Table = Mapping[str, object]
SELDOM = "36500d"
"""An interval of a schedule that only an API call starts."""


EACH_SECOND = {"s": {"every": "1s"}}
"""The schedules of an agent that runs each second while it is idle."""


def config_text(*, agents: Mapping[str, Table], daemon: Table | None = None, **sections: Table) -> str:
    """Return a config file whose state is in `state/`; a mapping in a table is a table of its own.

    The agents come last, so that a test may append keys to the last schedule.
    """
    tables = {"daemon": {"state_dir": "state", **(daemon or {})}, **sections, "agents": agents}
    return "\n".join(line for name, table in tables.items() for line in _lines(name, table)) + "\n"


def shell_agent(script: str, *, schedule: Table | None = None, **keys: object) -> Table:
    """Return an agent that runs a shell script each second while it is idle, unless its schedule says otherwise."""
    return {"command": ["sh", "-c", script], **keys, "schedules": {"s": {"every": "1s", **(schedule or {})}}}


def one_agent(script: str, *, daemon: Table | None = None, schedule: Table | None = None, **keys: object) -> str:
    """Return a config file with one agent `a` that runs a shell script each second while it is idle."""
    return config_text(daemon=daemon, agents={"a": shell_agent(script, schedule=schedule, **keys)})


def triggered_agent(inputs: Mapping[str, str], **keys: object) -> Table:
    """Return an agent with a schedule for each input, none of which is due soon."""
    schedules = {name: {"every": SELDOM, "input": text} for name, text in inputs.items()}
    return {"max_concurrent": 50, **keys, "schedules": schedules}


def _lines(name: str, table: Table) -> Iterator[str]:
    yield f"[{name}]"
    yield from (f"{key} = {_value(value)}" for key, value in table.items() if not isinstance(value, Mapping))
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _lines(f"{name}.{key}", value)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
