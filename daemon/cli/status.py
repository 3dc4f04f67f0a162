"""`agentcron status` for people."""

from typing import Any

from daemon.cli.output import local_time, print_facts, print_table, shortened

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


def print_overview(view: dict[str, Any], zone: str) -> None:
    """Show how the daemon is doing."""
    daemon, disk, cost = view["daemon"], view["disk"], view["cost_today_usd"]
    print_facts(
        (
            ("daemon", _state_of(daemon)),
            ("amiss", daemon.get("amiss")),  # a daemon of an earlier version does not say
            ("uptime", daemon["uptime"]),
            ("waiting", f"{view['pending']} runs"),
            ("cost today", None if cost is None else f"{cost:.2f} USD"),
            ("tokens today", view["tokens_today"] or None),
            ("disk", f"{disk['used']} in the database, {disk['free']} free"),
        )
    )
    _print_timeline(view["timeline"])
    parts = (
        (
            "runs now",
            ("run", "agent", "schedule", "status", "since"),
            view["running"],
            ("id", "agent", "schedule", "status", "started_at"),
        ),
        ("next", ("schedule", "due"), view["next"], ("schedule", "scheduled_for")),
        (
            "last failures",
            ("run", "agent", "schedule", "ended", "what was wrong"),
            view["last_failures"],
            ("id", "agent", "schedule", "completed_at", "error"),
        ),
    )
    for title, columns, entries, keys in parts:
        print(f"\n{title}")
        rows = ([_cell(key, entry[key], entry["timezone"] or zone) for key in keys] for entry in entries)
        print_table(columns, rows, empty="none")


def _state_of(daemon: dict[str, Any]) -> str:
    if not daemon["running"]:
        return "not running"
    return f"running, pid {daemon['pid']}" + ("" if daemon["answers"] else ", but it does not answer")


def _print_timeline(timeline: list[dict[str, Any]]) -> None:
    print("\nthe last 24 hours, of each the worst")
    rows = ((entry["schedule"], "".join(_SIGNS[hour] for hour in entry["hours"]), entry["runs"]) for entry in timeline)
    print_table(("schedule", "24 h ago .......... now", "runs"), rows, empty="nothing ran")
    if timeline:
        print("  ".join(f"{sign} {status}" for status, sign in _SIGNS.items() if status is not None))


def _cell(key: str, value: Any, zone: str) -> str:  # noqa: ANN401 - cells of any kind
    return local_time(value, zone) if key.endswith(("_at", "_for")) else shortened(str(value))
