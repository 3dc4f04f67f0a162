"""The line that sums up the problems of a daemon."""

from daemon.views.health import Health


def test_the_status_does_not_refer_to_itself() -> None:
    """Everywhere else, people read where the details are."""
    health = Health()
    health.failing.report("retention", "the disk is full", subject="sweep")
    assert health.problems() == "errors in retention (1), see `agentcron status`"
    assert health.problems(hint=False) == "errors in retention (1)"
