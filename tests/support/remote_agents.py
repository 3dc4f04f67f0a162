"""Agents that are elsewhere, with schedules that only an API call starts."""

SELDOM = "every = '36500d'\n"


def agent(name: str, settings: str, **inputs: str) -> str:
    """Return an agent with a schedule for each input, none of which is due soon."""
    schedules = [f"[agents.{name}.schedules.{key}]\n{SELDOM}input = '{text}'\n" for key, text in inputs.items()]
    return f"[agents.{name}]\n{settings}\nmax_concurrent = 50\n" + "".join(schedules)
