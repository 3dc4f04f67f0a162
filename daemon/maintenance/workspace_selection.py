"""Chooses the workspaces that a sweep removes now: by age and status of their runs, and by the environment's quota."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

import structlog

from daemon.config.effective import policy_of
from daemon.config.live import LiveConfig
from daemon.notify.outbox import Notice
from daemon.rules.cleanup import CleanupDecision, Policy, beyond_quota, decide_cleanup
from daemon.store.home import Home
from daemon.store.notifications import known_subjects
from daemon.store.workspaces import Workspace, by_environment, present_workspaces, saved_work
from daemon.units import format_size

_LOG = structlog.get_logger()
_QUOTA = "quota:"


class WorkspaceSelection:
    """Chooses among the workspaces of one daemon."""

    def __init__(self, home: Home, live: LiveConfig) -> None:
        self.quotas: dict[str, Notice] = {}
        """Which environments are near their quota or exceed it, as of the last choice, and which no longer do."""
        self._home = home
        self._live = live

    async def now_removable(self, older_than: timedelta | None, failed: Collection[int]) -> list[Workspace]:
        """Return the workspaces to remove now, oldest first, without those whose removal failed.

        `older_than` overrides the environments' max_age, and then quotas do not count. Raise StoreUnavailableError.
        """
        present = await self._home.database.read(present_workspaces)
        saved = await self._home.database.read(saved_work)
        if older_than is None:
            known = await self._home.database.read(lambda c: known_subjects(c, _QUOTA))
            self.quotas = {subject.removeprefix(_QUOTA): Notice("quota", "", subject=subject) for subject in known}
        return self._removable(present, {name: size for name, (_, size) in saved.items()}, older_than, failed)

    def _removable(
        self,
        present: Iterable[Workspace],
        saved: Mapping[str, int],
        older_than: timedelta | None,
        failed: Collection[int],
    ) -> list[Workspace]:
        """Choose among `present` workspaces as `now_removable` does.

        `saved` are the bytes of saved work by environment, which count for its quota.
        """
        found: list[Workspace] = []
        groups = by_environment(present)
        for name in [*groups, *(name for name in saved if name not in groups)]:
            group, policy = groups.get(name, []), policy_of(self._live.config, name)
            decisions = dict(decide_cleanup((one.candidate for one in group), policy, self._home.now(), older_than))
            for run in decisions.keys() & set(failed):
                decisions[run] = replace(decisions[run], may_go=False, due=False)
            due = {run for run, decision in decisions.items() if decision.due}
            rest = {one.run_id: one.bytes or 0 for one in group if one.run_id not in due}
            if older_than is None:
                due |= self._over_quota(name, policy, rest, saved.get(name, 0), decisions)
            found += [one for one in group if one.run_id in due]
        return found

    def _over_quota(
        self, name: str, policy: Policy, sizes: Mapping[int, int], saved: int, decisions: Mapping[int, CleanupDecision]
    ) -> set[int]:
        used = sum(sizes.values()) + saved
        if policy.quota is None or used < policy.quota * policy.quota_warn:
            return set()
        removable = set(beyond_quota(sizes, decisions, policy.quota - saved))
        left = used - sum(sizes[run] for run in removable)
        state = "near" if used <= policy.quota else "exceed"
        details = {
            "environment": name,
            "used": format_size(used),
            "quota": format_size(policy.quota),
            "saved_work": format_size(saved),
            "going": len(removable),
            "left": format_size(left),
        }
        problem = "are near their quota" if state == "near" else "exceed their quota"
        _LOG.warning(f"[cleanup] The workspaces of an environment {problem}", **details)
        text = f"the workspaces of {name} {problem}: {details['used']} of {details['quota']}"
        self.quotas[name] = Notice("quota", text, subject=_QUOTA + name, state=state, details=details)
        return removable
