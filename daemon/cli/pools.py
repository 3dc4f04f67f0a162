"""`agentcron pause` and `resume`: hold back the runs of a pool's agents, or of all agents, and let them go again."""

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from daemon.cli.output import local_time, print_json, say
from daemon.cli.parameters import Json, instant_text

if TYPE_CHECKING:
    from daemon.config.schema import Config

PoolName = Annotated[
    str | None,
    typer.Argument(metavar="POOL", help="A pool of the config, or agent:NAME for one agent; default: everything."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: agentcron pause claude-max --until 2026-12-01T08:00:00Z --note 'new contract'")(pause)
    app.command(epilog="Example: agentcron resume claude-max")(resume)


def pause(
    context: typer.Context,
    pool: PoolName = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Resume by itself at this time (RFC 3339).")
    ] = None,
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Reason, shown to whoever waits.")] = None,
    json: Json = False,
) -> None:
    """Hold back the runs of a pool, or of all agents.

    Schedules stay as they are: what comes due waits for its pools. Running runs continue.
    """
    body = {"until": instant_text("--until", until), "note": note}
    config, view = _ask(context, pool, "pause", {key: value for key, value in body.items() if value is not None})
    if json:
        print_json(view)
        return
    end = view["closures"][0]["until"]
    again = f"agentcron resume{'' if pool is None else f' {pool}'}"
    until_when = f"until {local_time(end, config.daemon.timezone)}" if end else f"until `{again}`"
    say(f"{_subject(view['pool'])} is paused {until_when}; running runs continue.")


def resume(context: typer.Context, pool: PoolName = None, json: Json = False) -> None:
    """Let held-back runs start again.

    A named pool opens whatever keeps it closed; without a name all pauses end, and pools that a
    limit or a login failure keeps closed stay closed.
    """
    _, view = _ask(context, pool, "resume", None)
    if json:
        print_json(view)
        return
    if not view["closures"]:
        say(f"Nothing was paused{'' if pool is None else f': {pool} is open'}.")
    for name in dict.fromkeys(closure["pool"] for closure in view["closures"]):
        say(f"{_subject(name)} is resumed.")


def _ask(context: typer.Context, pool: str | None, action: str, body: object) -> tuple["Config", dict[str, Any]]:
    from daemon.cli.client import Client
    from daemon.cli.locate import find_daemon

    config = find_daemon(context.obj)
    path = "/pools" if pool is None else f"/pools/{quote(pool, safe=':')}"
    return config, Client(config).ask("POST", f"{path}/{action}", body)


def _subject(pool: str) -> str:
    return "Everything" if pool == "*" else pool
