"""Who may do what: the rights of principals over agents, their schedules and their runs.

A principal is a Unix user by name (`uid:N` where it has none), `token:NAME`, `run:ID` or `config`. Looking up users and
groups may ask a name service and block, so `may` belongs into a thread; `may_at_once` answers what needs no look-up.
"""

import grp
import os
import pwd
from collections.abc import Iterable
from functools import cache
from typing import Literal

from daemon.config.schema import Config
from daemon.model import CONFIG_PRINCIPAL

Action = Literal[
    "schedule.read", "schedule.update", "schedule.delete", "agent.update", "agent.execute", "task.create", "task.update"
]


@cache
def own_user() -> str:
    """Return the principal of the user as whom the daemon runs; it has every right."""
    return user_of(os.geteuid())


def user_of(uid: int) -> str:
    """Return the principal of a user; one without a name, or whose name service is silent, is known by its number."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid:{uid}"
    return name if name != CONFIG_PRINCIPAL else f"uid:{uid}"


class Rights:
    """The rights that one config grants."""

    def __init__(self, config: Config) -> None:
        self._admins = frozenset(config.access.admins)
        self._tokens = frozenset(f"token:{token.name}" for token in config.control.tokens)
        self._change = {name: frozenset(agent.allow) for name, agent in config.agents.items()}
        self._read = {
            name: frozenset(agent.allow if agent.read is None else [*agent.read, *agent.allow])
            for name, agent in config.agents.items()
        }

    def may_at_once(self, principal: str) -> bool | None:
        """Tell whether a principal has every right, or none; None if that needs a closer look."""
        if principal in {CONFIG_PRINCIPAL, own_user()}:
            return True
        if principal.startswith("token:"):
            return None if principal in self._tokens else False
        return False if principal.startswith("run:") else None

    def is_admin(self, principal: str) -> bool:
        """Tell whether a principal has every right."""
        known = self.may_at_once(principal)
        return _is_among(principal, self._admins) if known is None else known

    def may(self, principal: str, action: Action, agent: str) -> bool:
        """Tell whether a principal may do something with an agent, its schedules or its runs."""
        known = self.may_at_once(principal)
        if known is not None:
            return known
        granted = (self._read if action == "schedule.read" else self._change).get(agent, frozenset())
        return _is_among(principal, self._admins | granted)

    def grant(self, claims: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        """Tell of each creator and agent whether the creator's schedules may start the agent."""
        return {
            (creator, agent): self.may(creator, "agent.execute", agent) and self.may(creator, "task.create", agent)
            for creator, agent in claims
        }


def _is_among(principal: str, granted: Iterable[str]) -> bool:
    """Tell whether a principal is named, or lies in a named group; a user that does not exist any more is nobody."""
    names = {name for name in granted if not name.startswith("@")}
    groups = {name[1:] for name in granted if name.startswith("@")}
    if principal.startswith("token:"):
        return principal in names
    try:
        user = pwd.getpwnam(principal)
    except (KeyError, ValueError):
        return False
    if principal in names:
        return True
    return any(_name_of(group) in groups for group in os.getgrouplist(principal, user.pw_gid)) if groups else False


def _name_of(group: int) -> str | None:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return None
