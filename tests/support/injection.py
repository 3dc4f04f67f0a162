"""Errors raised inside the tasks of a program, where they wait: a task factory, with the standard library only."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Generator
from pathlib import Path
from typing import Any


class InjectedError(Exception):
    """Raised where a task waits."""


class Plan:
    """When to raise errors in the tasks of one coroutine: at the waits after the last error that `waits` numbers.

    With `late`, what a task waits for happens first, and the error takes the place of its result; a wait that itself
    raises something, such as a timeout, does not count.
    """

    def __init__(self, waits: Collection[int], *, late: bool, raised: Callable[[int], None] = lambda _: None) -> None:
        self._left = list(waits)
        self._waited = 0
        self._raised = raised
        self.late = late

    @property
    def is_done(self) -> bool:
        """Whether all errors were raised."""
        return not self._left

    def is_next(self) -> bool:
        """Count a wait; return whether it is to fail."""
        self._waited += 1
        return not self.is_done and self._waited >= self._left[0]

    def error(self) -> InjectedError:
        """Return the error to raise."""
        self._raised(self._left.pop(0))
        self._waited = 0
        return InjectedError("injected")


class _Driven:
    """A coroutine that gets errors by a plan, as if what it waits for had raised them."""

    def __init__(self, work: Coroutine[Any, Any, Any], plan: Plan) -> None:
        self._work = work
        self._plan = plan

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = lambda: self._work.send(None)  # noqa: E731 - replaced by what the wait gave
        while True:
            try:
                waited = step()
            except StopIteration as end:
                return end.value
            fails = self._plan.is_next()
            if fails and not self._plan.late:
                if asyncio.isfuture(waited):
                    waited._asyncio_future_blocking = False  # as a task does that takes it
                    waited.cancel()  # so that what is behind it cleans up
                step = lambda: self._work.throw(self._plan.error())  # noqa: E731
                continue
            try:
                value = yield waited
            except BaseException as error:  # noqa: BLE001 - handed on
                step = lambda error=error: self._work.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                step = lambda value=value: self._work.send(value)  # type: ignore[misc]  # noqa: E731
                if fails:
                    step = lambda: self._work.throw(self._plan.error())  # noqa: E731


async def driven(work: Coroutine[Any, Any, Any], plan: Plan) -> Any:  # noqa: ANN401 - whatever the work returns
    """Run work to its end, with errors by a plan."""
    return await _Driven(work, plan)


class TaskFactory:
    """Makes the tasks of a loop; those of the coroutines that `plans` names get errors."""

    def __init__(self, plans: dict[str, Plan]) -> None:
        self._plans = plans

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **keys: Any,  # noqa: ANN401 - the name and the context of a task
    ) -> asyncio.Task[Any]:
        plan = self._plans.get(getattr(work, "__qualname__", ""))
        if plan is not None and asyncio.iscoroutine(work):
            work = driven(work, plan)
        return asyncio.Task(work, loop=loop, **keys)


def inject(names: Collection[str], most: int, report: Path, *, late: bool) -> None:
    """Have the tasks of these coroutines fail, in loops made from now on: at the first wait, then at the second ...

    up to `most`. Each error adds a line with the coroutine's name to the report.
    """
    make = asyncio.events.new_event_loop

    def raised(name: str, _: int) -> None:
        with report.open("a") as file:
            file.write(f"{name}\n")

    def new_event_loop() -> asyncio.AbstractEventLoop:
        loop = make()
        waits = range(1, most + 1)
        plans = {name: Plan(waits, late=late, raised=lambda _, name=name: raised(name, _)) for name in names}  # type: ignore[misc]
        loop.set_task_factory(TaskFactory(plans))
        return loop

    asyncio.events.new_event_loop = new_event_loop
