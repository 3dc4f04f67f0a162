"""Compute the settings in effect for an environment or agent: the general ones with their overrides."""

from datetime import datetime, timedelta

from daemon.config.schema import AgentRetention, Budget, Config, Environment
from daemon.rules.budget import Budgets, Limits
from daemon.rules.cleanup import Policy
from daemon.rules.notifications import Audience, Target
from daemon.rules.pools import Places, Pools, private_pool
from daemon.rules.retention import Cutoff, RetentionPolicy, RunRetention


def policy_of(config: Config, environment: str) -> Policy:
    """Return `[cleanup]` with the overrides of an environment; one no longer in the config has none."""
    general = config.cleanup
    own = config.environments.get(environment) or Environment()
    return Policy(
        max_age=general.max_age if own.max_age is None else own.max_age,
        keep_on_error=general.keep_on_error if own.keep_on_error is None else own.keep_on_error,
        keep_errors=general.keep_errors if own.keep_errors is None else own.keep_errors,
        quota=general.quota if own.quota is None else own.quota,
        quota_warn=general.quota_warn if own.quota_warn is None else own.quota_warn,
        salvage_max=general.salvage_max if own.salvage_max is None else own.salvage_max,
    )


def retention_policy(config: Config, now: datetime) -> RetentionPolicy:
    """Return `[retention]` for every agent as of `now`, without the newest runs to keep, which need the database."""
    general = _run_retention(config, AgentRetention(), now)
    return RetentionPolicy(
        {name: _run_retention(config, agent.retention, now) for name, agent in config.agents.items()}, general, {}
    )


def budgets_of(config: Config) -> Budgets:
    """Return the limits per calendar day, of the host and of the agents that have any."""
    limits = {name: _limits(agent.budget) for name, agent in config.agents.items()}
    return Budgets(
        {name: limit for name, limit in limits.items() if not limit.are_none},
        _limits(config.budget),
        config.daemon.timezone,
    )


def _limits(budget: Budget) -> Limits:
    return Limits(budget.runs_per_day, budget.cost_usd_per_day, budget.tokens_per_day)


def pools_of(config: Config) -> Pools:
    """Return the pools of the config and which agents use them, all open and empty."""
    if not config.pools:
        return Pools({}, {})
    return Pools(
        of_agents={name: tuple(agent.pools) for name, agent in config.agents.items() if agent.pools},
        places={name: Places(pool.max_concurrent, pool.reserve) for name, pool in config.pools.items()},
    )


def skipping_agents(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the agents whose due times are skipped while a limit is used up, with the pools that may be closed."""
    skipping = {name: agent for name, agent in config.agents.items() if agent.on_limit == "skip"}
    return {name: (private_pool(name), *agent.pools) for name, agent in skipping.items()}


def limit_pools(config: Config, agent: str) -> tuple[str, ...]:
    """Return the pools that a limit closes which a run of an agent hits: its shared ones, or else its private one."""
    shared = tuple(name for name in config.agents[agent].pools if config.pools[name].share_limits)
    return shared or (private_pool(agent),)


def login_pools(config: Config, agent: str) -> tuple[str, ...]:
    """Return the pools of an agent with a probe, which closes them if a run of it is not signed in."""
    return tuple(name for name in config.agents[agent].pools if config.pools[name].probe is not None)


def audience_of(config: Config) -> Audience:
    """Return the targets that receive events; one with only a dead-man's switch does not."""
    return Audience(
        tuple(
            Target(name, frozenset(settings.on), frozenset(settings.agents), settings.send == "answer")
            for name, settings in config.notify.items()
            if settings.receives_events
        )
    )


def days_of(config: Config, own: AgentRetention) -> int | None:
    """Return for how many days the ended runs of an agent are kept, None for forever."""
    return config.retention.days if own.days is None else own.days


def _run_retention(config: Config, own: AgentRetention, now: datetime) -> RunRetention:
    days = days_of(config, own)
    keep_last = config.retention.keep_last if own.keep_last is None else own.keep_last
    return RunRetention(None if days is None else Cutoff(now - timedelta(days=days)), keep_last)
