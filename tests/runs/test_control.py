"""The remote control of runs wakes whoever waits for a run to move on, after its sets say that it has."""

from daemon.runs.control import RunControl


def test_progress_is_reported_when_a_run_is_suspended_or_no_longer_under_way() -> None:
    control = RunControl()
    control.in_flight.add(1)
    control.suspend(1)
    assert control.progress.is_set()
    assert (control.in_flight, control.suspended) == (set(), {1})
    control.progress.clear()
    control.forget(1)
    assert control.progress.is_set()
    assert control.suspended == set()
