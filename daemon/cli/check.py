"""`agentcron check`: the config with its next due times, and what a reload of it would change."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.cli.diff import SettingsDiff, blocked_by_reload, changes_by_reload, refuse_taken_names, settings_by_reload
from daemon.cli.locate import read_config
from daemon.cli.output import local_time, print_json, print_table, say
from daemon.cli.privileges import become_owner, become_reader
from daemon.config.paths import state_dir
from daemon.config.result_formats import chosen_formats
from daemon.config.schema import Config
from daemon.config.secrets import read_token
from daemon.doctor.settings import check_settings
from daemon.errors import StoreError
from daemon.schedules.declared import definition_of
from daemon.store.schedules import cadence_from
from daemon.units import format_instant, utc_now
from daemon.views.schedules import upcoming

_NEXT_SHOWN = 3


@dataclass
class _Diff:
    """What a reload would change, as far as the state can be read."""

    changes: list[dict[str, Any]] | None = None
    blocked: list[str] = field(default_factory=list)
    settings: SettingsDiff | None = None
    unreadable: StoreError | None = None
    """Why schedules cannot be compared."""

    def view(self) -> dict[str, Any]:
        """Return the keys of the JSON document; null is unknown."""
        return {"changes": self.changes, "settings": None if self.settings is None else self.settings.changed}


def check_config(option: Path | None, *, diff: bool, json: bool) -> None:
    """Validate the config and print it with its next due times, and (`diff`) what a reload would change.

    What could be found out is printed also if StoreError is raised since the state cannot be read.
    """
    config = read_config(option)
    owner = become_owner(state_dir(config))
    found = _compared_with_state(config) if diff else None  # only its owner may read a state of root
    if found is None:
        refuse_taken_names(config)
    user = become_reader(config, owner)
    _refuse_bad_tokens(config)
    schedules = _declared_schedules(config)
    warnings = [*_warnings_of(config, user), *_warnings_in(found)]
    formats = _result_formats(config)
    if json:
        view = {"schedules": schedules, "result_formats": formats, "warnings": warnings}
        print_json({**view, **(found.view() if found else {})})
    else:
        _print_check(config, schedules, formats, warnings, found)
        say(f"{config.file} is valid.")
    if found is not None and found.unreadable is not None:
        what = "what" if found.settings is None else "which schedules"
        raise StoreError(f"{what} a reload would change cannot be told: {found.unreadable}")


def _compared_with_state(config: Config) -> _Diff:
    """Compare the config with the state, which may be unreadable: the config is valid all the same.

    Raise ConfigError for names of schedules that are taken.
    """
    found = _Diff(settings=settings_by_reload(config))
    try:
        found.changes = changes_by_reload(config)
        found.blocked = blocked_by_reload(config)
    except StoreError as error:
        found.unreadable = error
    return found


def _warnings_in(found: _Diff | None) -> Iterator[str]:
    if found is not None:
        yield from found.blocked
        if found.settings is not None:
            yield from (f"{setting}: takes effect at the next start" for setting in found.settings.at_start)


def _declared_schedules(config: Config) -> list[dict[str, Any]]:
    """Return the schedules of the config with their next due times."""
    found: list[dict[str, Any]] = []
    for agent, settings in config.agents.items():
        for name, schedule in settings.schedules.items():
            definition = definition_of(schedule, config)
            times = upcoming(cadence_from(definition), utc_now(), _NEXT_SHOWN)
            found.append(
                {
                    "schedule": f"{agent}/{name}",
                    "timezone": definition["timezone"],
                    "paused": schedule.paused,
                    "next_action_times": [format_instant(time) for time in times],
                }
            )
    return found


def _warnings_of(config: Config, user: str | None) -> list[str]:
    """Return what probably does not work as intended; `user` is who we became to find that out, None if nobody."""
    warnings = [f"{found.about}: {found.what}" for found in check_settings(config)]
    if user is not None and not os.access(config.file, os.R_OK):
        warnings.append(f"config: {user} has no permission to read {config.file}")
    return warnings


def _refuse_bad_tokens(config: Config) -> None:
    """Raise ConfigError for a token file that the daemon would refuse; those that we may not read are warned of."""
    for token in config.control.tokens:
        if token.file is not None and os.access(config.resolve(token.file), os.R_OK):
            read_token(config, token)


def _print_check(
    config: Config,
    schedules: list[dict[str, Any]],
    formats: list[dict[str, Any]],
    warnings: list[str],
    found: _Diff | None,
) -> None:
    print_table(
        ("schedule", "timezone", "next three due times"),
        ((entry["schedule"], entry["timezone"], _times(entry)) for entry in schedules),
        empty="No schedules in the config.",
    )
    if found is not None:
        _print_diff(config, found)
    for one in formats:
        if one["reason"] is not None:
            say(f"agent {one['agent']}: result_format = {one['result_format']}, {one['reason']}")
    for warning in warnings:
        say(f"warning: {warning}", error=True)


def _result_formats(config: Config) -> list[dict[str, Any]]:
    """Return what the output of each command is read as, and why."""
    found = chosen_formats(config)
    return [{"agent": name, "result_format": one.name, "reason": one.why or None} for name, one in found.items()]


def _times(entry: dict[str, Any]) -> str:
    if entry["paused"]:
        return "paused"
    times = [local_time(time, entry["timezone"]) for time in entry["next_action_times"]]
    return ", ".join(times) or "none"


def _print_diff(config: Config, found: _Diff) -> None:
    """Print what a reload would change, as far as that is known; why the rest is not is printed at the end."""
    if found.changes is not None:
        print("\nA reload would change these schedules:")
        print_table(
            ("schedule", "would be", "changes"),
            (
                (
                    change["schedule"],
                    change["action"],
                    "; ".join(f"{key}: {before} -> {after}" for key, (before, after) in change["changes"].items()),
                )
                for change in found.changes
            ),
            empty="None.",
        )
    if found.settings is not None:
        print("\nA reload would change these other settings; later runs follow them:")
        print_table(("setting",), ((setting,) for setting in found.settings.changed), empty="None.")
    elif found.unreadable is None:
        say(f"\nOther settings cannot be compared: no copy of a config in force is in {state_dir(config)}.")
    print()
