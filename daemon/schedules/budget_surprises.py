"""Find budgets that are valid, but do not count or limit what they seem to."""

from collections.abc import Iterator, Mapping

from daemon.config.result_formats import chosen_format
from daemon.config.schema import AgentexAgent, BaseAgent, Budget, CommandAgent, ProcessAgent
from daemon.config.values import MAX_COST
from daemon.schedules.surprise import Surprise

_COST_FORMATS = ("claude", "opencode")
"""The values of `result_format` that read a cost from the output."""
_TOKEN_FORMATS = (*_COST_FORMATS, "codex", "gemini")
"""Those that read tokens from it."""
_FORMATS = {"cost_usd_per_day": _COST_FORMATS, "tokens_per_day": _TOKEN_FORMATS}
"""By limit of what runs use: the formats that read it."""
_MOST_NAMED = 5


def of_budget(place: str, agent: BaseAgent) -> Iterator[Surprise]:
    """Yield what is probably a mistake in the budget of an agent, given its key path."""
    yield from _daily(place, agent)
    yield from _cap(f"{place}.max_cost_usd", agent)


def of_host_budget(budget: Budget, agents: Mapping[str, BaseAgent]) -> Iterator[Surprise]:
    """Yield the limits of all agents together that do not count some of them."""
    for key in _usage_limits(budget):
        untold = [name for name, agent in agents.items() if not _tells(agent, key)]
        if untold:
            names = ", ".join(untold[:_MOST_NAMED])
            more = f" and {len(untold) - _MOST_NAMED} more" if len(untold) > _MOST_NAMED else ""
            what = f"runs of {names}{more} do not report it by themselves, so this limit may be reached too late"
            yield Surprise(f"budget.{key}", what, "set their result_format, or limit their runs_per_day")


def _daily(place: str, agent: BaseAgent) -> Iterator[Surprise]:
    """Find limits of what runs report that such runs report never, or only by themselves."""
    for key in _usage_limits(agent.budget):
        if _tells(agent, key):
            continue
        if isinstance(agent, CommandAgent):
            yield _unread(f"{place}.{key}", agent, _FORMATS[key])
        if isinstance(agent, AgentexAgent):
            what = f'agents with acp_type = "{agent.acp_type}" report no usage, so this limit is never reached'
            yield Surprise(f"{place}.{key}", what, "limit runs_per_day instead")


def _usage_limits(budget: Budget) -> list[str]:
    """Return the limits in a budget that count what runs report."""
    return [key for key in _FORMATS if getattr(budget, key) is not None]


def _tells(agent: BaseAgent, key: str) -> bool:
    """Return whether runs of an agent may report, by themselves, what a limit counts."""
    if isinstance(agent, CommandAgent):
        return chosen_format(agent).name in _FORMATS[key]
    return not isinstance(agent, AgentexAgent) or agent.acp_type == "sync"


def _unread(place: str, agent: CommandAgent, formats: tuple[str, ...]) -> Surprise:
    """Return what is wrong with a limit of what is read of a command's output only in other formats."""
    what = (
        f'result_format = "{chosen_format(agent).name}" reads nothing of it from the output, so this limit '
        "counts only what the command writes into $AGENTCRON_RESULT"
    )
    read = ", ".join(sorted(formats))
    return Surprise(place, what, f"set a result_format that reads it ({read}), or have the command write it there")


def _cap(place: str, agent: BaseAgent) -> Iterator[Surprise]:
    """Find a cap on the cost of a run that nothing is told of."""
    if agent.budget.max_cost_usd is None:
        return
    if not isinstance(agent, ProcessAgent):
        yield Surprise(place, "no agent behind a url is told of it, so nothing keeps to it", "remove it")
    elif not any(MAX_COST.search(argument) for argument in agent.words[1:]):
        what = "the command does not contain {max_cost_usd}, so nothing keeps to it"
        yield Surprise(place, what, "pass it on, as in `claude --max-budget-usd {max_cost_usd}`, or remove it")
