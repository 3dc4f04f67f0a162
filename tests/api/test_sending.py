"""Answers that clients do not take: bounded in bytes, at the cost of whoever has the most of them."""

import asyncio
import contextlib

from daemon.api.sending import UnreadAnswers


class Wire(asyncio.Transport):
    """A transport that only notes that it was aborted."""

    is_aborted = False

    def abort(self) -> None:
        """Note it."""
        self.is_aborted = True


def test_the_unread_answers_of_all_runs_count_together() -> None:
    unread, runs, person, other = UnreadAnswers(most=8), [Wire(), Wire()], Wire(), Wire()
    with contextlib.ExitStack() as stack:
        stack.enter_context(unread.waiting("alice", 3, person))
        for number, wire in enumerate(runs):
            stack.enter_context(unread.waiting(f"run:{number}", 2, wire))
        stack.enter_context(unread.waiting("bob", 2, other))
        assert [wire.is_aborted for wire in (*runs, person, other)] == [True, False, False, False]
