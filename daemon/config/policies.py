"""What holds for one environment: `[cleanup]`, as the environment overrides it."""

from daemon.config.schema import Config, Environment
from daemon.rules.keeping import Policy


def policy_of(config: Config, environment: str) -> Policy:
    """Return `[cleanup]` as an environment overrides it; one that left the config goes by `[cleanup]` alone."""
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
