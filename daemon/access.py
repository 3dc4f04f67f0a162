"""Who may do what: the rights of principals over agents, their schedules and their runs.

A principal is a Unix user by name (`uid:N` where it has none), `token:NAME`, `run:ID` or `config`. Looking up users and
groups may ask a name service and block, so `Access` does it in threads; `may_at_once` answers what needs no look-up.

A person who triggers a schedule, or starts an agent without one, needs `agent.execute`: either way the agent gets
whatever input that person gives. A due time needs that its creator may start runs (`may_start`). Of these actions only
`schedule.read` is granted by `read`; `allow` grants all of them.
"""

import asyncio
import contextlib
import grp
import os
import pwd
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Literal, NamedTuple

import structlog

from daemon.config.live import LiveConfig
from daemon.config.schema import Config
from daemon.model import CONFIG_PRINCIPAL
from daemon.problems import described

Action = Literal[
    "schedule.read", "schedule.update", "schedule.delete", "agent.update", "agent.execute", "task.create", "task.update"
]
Claim = tuple[str, str]
"""A schedule's creator and its agent."""


class Standing(NamedTuple):
    """What a schedule's creator may do."""

    may_start: bool
    """Whether its schedules may start their agent."""
    is_admin: bool
    """Whether it has every right, so that no limits apply."""


_LOG = structlog.get_logger()
_KEPT = 3.0  # seconds for which a right that took a look-up is not looked up again
_MOST_KEPT = 10_000  # more than a host has principals; beyond that they are looked up again
_LOOK_UP = 1.0  # seconds that a look-up of rights may hold up due times


@cache
def own_user() -> str:
    """Return the principal of the daemon's own user, who has every right."""
    return user_of(os.geteuid())


def user_of(uid: int) -> str:
    """Return the principal of a user: its name, or `uid:N` if no name can be found."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid:{uid}"
    return name if name != CONFIG_PRINCIPAL else f"uid:{uid}"


def admin_uids(config: Config) -> frozenset[int]:
    """Return the user ids that `access.admins` names, of users and of the groups' listed members; may block."""
    users: set[str] = set()
    for name in config.access.admins:
        if name.startswith("@"):
            with contextlib.suppress(KeyError):
                users.update(grp.getgrnam(name[1:]).gr_mem)
        elif not name.startswith("token:"):
            users.add(name)
    found = set()
    for user in users:
        with contextlib.suppress(KeyError, ValueError):
            found.add(pwd.getpwnam(user).pw_uid)
    return frozenset(found)


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
        """Return True for every right, False for none, None if the answer needs a look-up."""
        if principal in {CONFIG_PRINCIPAL, own_user()}:
            return True
        if principal.startswith("token:"):
            return None if principal in self._tokens else False
        return False if principal.startswith("run:") else None

    def is_admin(self, principal: str) -> bool:
        """Return whether a principal has every right."""
        known = self.may_at_once(principal)
        return _is_among(principal, self._admins) if known is None else known

    def may(self, principal: str, action: Action, agent: str) -> bool:
        """Return whether a principal may perform an action on an agent, its schedules or its runs."""
        known = self.may_at_once(principal)
        if known is not None:
            return known
        granted = (self._read if action == "schedule.read" else self._change).get(agent, frozenset())
        return _is_among(principal, self._admins | granted)

    def may_start(self, claim: Claim) -> bool:
        """Return whether a creator's schedules may start an agent."""
        creator, agent = claim
        return self.may(creator, "agent.execute", agent) and self.may(creator, "task.create", agent)

    def standing(self, claim: Claim) -> Standing:
        """Return what a creator's schedules may start, and whether limits apply to it."""
        return Standing(self.may_start(claim), self.is_admin(claim[0]))


class Access:
    """Looks up in threads which rights the current config grants."""

    def __init__(self, live: LiveConfig) -> None:
        self._live = live
        self._known: dict[tuple[str, str, str], tuple[float, bool]] = {}
        self._renew()
        live.on_change(self._renew)

    def _renew(self) -> None:
        self._rights = Rights(self._live.config)
        self._known = {}

    async def is_admin(self, principal: str) -> bool:
        """Return whether a principal has every right; answers are cached for a few seconds."""
        return await self._look_up((principal, "", ""), lambda rights: rights.is_admin(principal))

    async def may(self, principal: str, action: Action, agent: str) -> bool:
        """Return whether a principal may perform an action on an agent; answers are cached for a few seconds."""
        return await self._look_up((principal, action, agent), lambda rights: rights.may(principal, action, agent))

    async def may_now(self, principal: str, action: Action, agent: str) -> bool:
        """Return the same as `may`, but look it up now."""
        at_once = self._rights.may_at_once(principal)
        return at_once if at_once is not None else await asyncio.to_thread(self._rights.may, principal, action, agent)

    async def readable_agents(self, principal: str) -> list[str] | None:
        """Return the agents that a principal may read, None for all."""
        if await self.is_admin(principal):
            return None
        return [agent for agent in self._live.config.agents if await self.may(principal, "schedule.read", agent)]

    async def standings(self, claims: Iterable[Claim]) -> dict[Claim, Standing]:
        """Return the standing of each claim; omit those whose look-up fails or takes too long (1 s)."""
        asked = {claim: asyncio.ensure_future(asyncio.to_thread(self._rights.standing, claim)) for claim in claims}
        if asked:
            await asyncio.wait(asked.values(), timeout=_LOOK_UP)
        for claim, answer in asked.items():
            if answer.done() and (error := answer.exception()) is not None:
                _LOG.error("[clock] Rights cannot be looked up", principal=claim[0], error=described(error))
        return {claim: answer.result() for claim, answer in asked.items() if answer.done() and not answer.exception()}

    async def _look_up(self, key: tuple[str, str, str], look_up: Callable[[Rights], bool]) -> bool:
        at_once = self._rights.may_at_once(key[0])
        if at_once is not None:
            return at_once
        cache = self._known  # a change of the config replaces it
        known = cache.get(key)
        if known is None or time.monotonic() > known[0]:
            answer = await asyncio.to_thread(look_up, self._rights)
            if len(cache) > _MOST_KEPT:
                cache.clear()
            known = cache[key] = (time.monotonic() + _KEPT, answer)
        return known[1]


def _is_among(principal: str, granted: Iterable[str]) -> bool:
    """Return whether a principal is listed or is in a listed group; a user that no longer exists is in neither."""
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
