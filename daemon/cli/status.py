"""Print the status of the daemon for people."""

from typing import Any

from daemon.cli.output import local_time, print_facts, print_table, say, shortened
from daemon.text import plural

_SIGNS = {
    None: "·",
    "completed": "█",
    "pending": "░",
    "running": "▒",
    "suspended": "▒",
    "cancelled": "c",
    "continued_as_new": "r",
    "interrupted": "i",
    "failed": "F",
}
_FETCHED = {"submodules": "its submodules", "lfs": "its files in Git LFS"}
"""What runs wait for, by the word in the API; the other words are what happens to a mirror."""


def print_status(view: dict[str, Any], zone: str) -> None:
    """Print what the daemon does now, its last 24 hours, what is next and what failed."""
    daemon, disk, cost = view["daemon"], view["disk"], view["cost_today_usd"]
    print_facts(
        (
            ("daemon", _describe(daemon)),
            ("problem", daemon.get("amiss")),  # not sent by daemons of earlier versions
            ("uptime", daemon["uptime"]),
            ("waiting", [_waiting(view), *(_wait(one, zone) for one in view.get("waits", []))]),
            ("cost today", None if cost is None else f"{cost:.2f} USD"),
            ("tokens today", view["tokens_today"] or None),
            ("usage unknown", _unknown(view.get("usage_unknown_today", 0))),  # not sent by earlier daemons
            ("budget", [_budget(one) for one in view.get("budgets", [])]),  # likewise
            ("disk", _disk(disk)),
        )
    )
    _print_problems(view.get("problems", []), zone)  # not sent by daemons of earlier versions
    _print_paused(view.get("paused_by_failure", []), zone)  # likewise
    _print_pools(view.get("pools", []), zone)  # likewise
    print()
    say(f"last 24 hours (worst status per hour){_of_all(view, 'timeline')}")
    _print_timeline(view["timeline"])
    parts = (
        (
            f"running now{_of_all(view, 'running')}",
            ("run", "schedule", "status", "since"),
            view["running"],
            ("id", "schedule", "status", "started_at"),
        ),
        ("next due", ("schedule", "due"), view["next"], ("schedule", "scheduled_for")),
        (
            "last failures",
            ("run", "schedule", "ended", "kind", "error"),
            view["last_failures"],
            ("id", "schedule", "completed_at", "failure_kind", "error"),
        ),
    )
    for title, columns, entries, keys in parts:
        print()
        say(title)
        rows = ([_cell(entry, key, entry["timezone"] or zone) for key in keys] for entry in entries)
        print_table(columns, rows, empty="none")


def _unknown(count: int) -> str | None:
    return f"of {plural(count, 'run')} today, wholly or in part" if count else None


def _waiting(view: dict[str, Any]) -> str:
    paused = view.get("pending_paused", 0)  # not sent by daemons of earlier versions
    return plural(view["pending"], "run") + (f", {paused} of them because their schedules are paused" if paused else "")


def _wait(wait: dict[str, Any], zone: str) -> str:
    """Return what runs of an environment wait for."""
    runs = f", run{'' if len(wait['runs']) == 1 else 's'} {', '.join(map(str, wait['runs']))}" if wait["runs"] else ""
    since = local_time(wait["since"], zone)
    what = _FETCHED.get(wait["waits_for"], f"the {wait['waits_for']} of its mirror")
    return f"{wait['environment']}: for {what}, since {since}{runs}"


def _budget(budget: dict[str, Any]) -> str:
    """Return how much of a budget was spent today."""
    parts = [
        f"{budget[key]:{form}} of {budget[limit]:{form}} {unit}"
        for key, limit, form, unit in (
            ("runs", "runs_per_day", "d", "runs"),
            ("cost_usd", "cost_usd_per_day", ".2f", "USD"),
            ("tokens", "tokens_per_day", "d", "tokens"),
        )
        if budget[limit] is not None
    ]
    return f"{budget['agent'] or 'the host'}: {', '.join(parts)} today"


def _of_all(view: dict[str, Any], key: str) -> str:
    """Return how many entries of a part there are if the daemon sent only some of them."""
    shown, total = len(view[key]), view.get(f"{key}_total", 0)  # not sent by daemons of earlier versions
    return f", {shown} of {total}" if total > shown else ""


def _disk(disk: dict[str, str]) -> str:
    saved = disk.get("saved_work")  # not sent by daemons of earlier versions
    by_saved = f", {saved} by saved work" if saved is not None else ""
    return f"{disk['used']} used by the database{by_saved}, {disk['free']} free"


def _describe(daemon: dict[str, Any]) -> str:
    if not daemon["running"]:
        return "not running"
    return f"running, pid {daemon['pid']}" + ("" if daemon["answers"] else ", but does not respond")


def _print_problems(problems: list[dict[str, Any]], zone: str) -> None:
    """Print what fails and is retried, if there is anything."""
    if not problems:
        return
    print("\nproblems (retried; details are in the log)")
    columns = ("part", "what", "since", "failures", "retry", "error")
    rows = [
        (
            one["part"],
            one["subject"] or "all",
            local_time(one["since"], zone),
            one["failures"],
            local_time(one["retry_at"], zone) if one["retry_at"] else "next sweep, reload or event",
            one["reason"],
        )
        for one in problems
    ]
    print_table(columns, rows, empty="none")


def _print_paused(paused: list[dict[str, Any]], zone: str) -> None:
    """Print which schedules wait for a person since a run failed, if there are any."""
    if not paused:
        return
    print("\npaused by a failure (`agentcron schedules resume AGENT/NAME` continues)")
    rows = ((one["schedule"], local_time(one["paused_at"], zone), one["note"]) for one in paused)
    print_table(("schedule", "since", "note"), rows, empty="none")


def _print_pools(pools: list[dict[str, Any]], zone: str) -> None:
    """Print how the pools stand, if there are any."""
    if not pools:
        return
    print("\npools (`agentcron resume POOL` opens one)")
    rows = (
        (
            "everything" if one["pool"] == "*" else one["pool"],
            one["state"],
            one["running"] if one["max_concurrent"] is None else f"{one['running']} of {one['max_concurrent']}",
            one["pending"],
            "; ".join(why_closed(closure, zone) for closure in one["closures"]),
        )
        for one in pools
    )
    print_table(("pool", "state", "running", "pending", "why"), rows, empty="none")


def why_closed(closure: dict[str, Any], zone: str) -> str:
    """Return what keeps a pool closed, and until when."""
    words = {"limit": "a limit", "login": "not signed in, until its probe passes", "pause": "paused"}
    what = words.get(closure["cause"], closure["cause"])
    by = f" by {closure['principal']}" if closure["principal"] else ""
    until = f" until {local_time(closure['until'], zone)}" if closure["until"] else ""
    run = f" (run {closure['run_id']})" if closure["run_id"] else ""
    return f"{what}{by}{until}{run}" + (f": {closure['reason']}" if closure["reason"] else "")


def _print_timeline(timeline: list[dict[str, Any]]) -> None:
    rows = (
        (entry["schedule"], "".join(_SIGNS.get(hour, "?") for hour in entry["hours"]), entry["runs"])
        for entry in timeline
    )
    print_table(("schedule", "24 h ago .......... now", "runs"), rows, empty="no runs")
    shown = {hour for entry in timeline for hour in entry["hours"]} - {None}
    if shown:
        say("  ".join(f"{sign} {status}" for status, sign in _SIGNS.items() if status in shown))


def _cell(entry: dict[str, Any], key: str, zone: str) -> str:
    if key.endswith(("_at", "_for")):
        return local_time(entry[key], zone)
    value = entry.get(key)  # daemons of earlier versions do not send all
    if key == "schedule" and value is None:
        value = entry["agent"]
    return "-" if value is None else shortened(str(value))
