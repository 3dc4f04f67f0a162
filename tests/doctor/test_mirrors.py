"""Mirrors that no environment of the config uses, and what agents may have put in their place."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.config.loading import load_config
from daemon.doctor.findings import Finding, Severity
from daemon.doctor.workspaces import check_mirrors, check_quarantine


def mirror_of(state: Path, environment: str) -> Path:
    mirror = state / "environments" / environment / "mirror"
    mirror.mkdir(parents=True)
    mirror.with_name("mirror.lock").write_text("changing\n")  # by a process that was killed
    return mirror


def findings(state: Path) -> list[Finding]:
    config = state / "config.toml"
    config.write_text('[agents.a]\ncommand = ["true"]\n[environments.local]\nmode = "local"\npath = "/"\n')
    return list(check_mirrors(load_config(config), state))


def test_a_mirror_that_nothing_uses_can_be_deleted(tmp_path: Path) -> None:
    for name in ("local", "removed"):
        (mirror_of(tmp_path, name).parent / "tasks").mkdir()
    for finding, name in zip(findings(tmp_path), ("local", "removed"), strict=True):
        assert finding.what.endswith("has no git environment in the config")
        assert finding.fix is not None
        assert finding.fix.endswith(f"as the daemon's user: `rm -r {tmp_path}/environments/{name}`")


def test_all_that_is_beside_a_mirror_is_named(tmp_path: Path) -> None:
    place = mirror_of(tmp_path, "removed").parent
    for beside in ("mirror.damaged/refs", "quarantine/7", "tasks/7"):
        (place / beside).mkdir(parents=True)
    [finding] = findings(tmp_path)
    assert finding.what.endswith("beside it, mirror.damaged and quarantine and tasks are not empty")


def test_a_mirror_that_was_set_aside_is_found_without_a_mirror(tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, "removed")
    mirror.rename(mirror.with_name("mirror.damaged"))
    [finding] = findings(tmp_path)
    assert f"{tmp_path}/environments/removed/mirror.damaged, " in finding.what
    assert "rm -r" in str(finding.fix)


@pytest.mark.parametrize("beside", ["tasks/7", "quarantine/7"])
def test_no_fix_deletes_what_may_hold_work(tmp_path: Path, beside: str) -> None:
    (mirror_of(tmp_path, "removed").parent / beside).mkdir(parents=True)
    [finding] = findings(tmp_path)
    assert finding.what.endswith(f"beside it, {beside[:-2]} is not empty")
    assert finding.fix is None


def test_no_fix_holds_a_name_that_an_agent_chose(tmp_path: Path) -> None:
    mirror_of(tmp_path, "a;CMD")
    [finding] = findings(tmp_path)
    assert finding.what.endswith("environments/a;CMD does not have the name of an environment")
    assert "CMD" not in str(finding.fix)


@pytest.mark.parametrize(
    ("name", "content"),
    [("refs/agentcron/runs/7/abc", "abc\n"), ("packed-refs", "# pack-refs\nabc refs/agentcron/runs/7/abc\n")],
)
def test_a_mirror_that_saved_work_needs_is_kept(tmp_path: Path, name: str, content: str) -> None:
    ref = mirror_of(tmp_path, "removed") / name
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(content)
    [finding] = findings(tmp_path)
    assert "saved work needs it" in finding.what
    assert finding.fix is None


def test_empty_folders_of_refs_keep_no_commits(tmp_path: Path) -> None:
    (mirror_of(tmp_path, "removed") / "refs/agentcron/runs/7").mkdir(parents=True)
    [finding] = findings(tmp_path)
    assert finding.fix is not None


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_odd_refs_of_a_mirror_are_a_finding_and_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(mirror_of(tmp_path, "removed") / "packed-refs")
    [finding] = findings(tmp_path)
    assert finding.severity is Severity.WARNING
    assert "/mirror cannot be read: " in finding.what
    assert "rm -r" not in str(finding.fix)


def test_a_quarantined_mirror_that_saved_work_may_need_is_not_told_to_be_deleted_at_once(tmp_path: Path) -> None:
    quarantine = tmp_path / "environments/site/quarantine"
    for name in ("mirror.damaged", "mirror.damaged.1"):
        (quarantine / name / "refs/agentcron/runs/7").mkdir(parents=True)
        (quarantine / name / "refs/agentcron/runs/7/abc").write_text("abc\n")
    for name in ("mirror.damaged.2", "7"):
        (quarantine / name).mkdir()
    (quarantine / "mirror.damaged.3/packed-refs").mkdir(parents=True)
    for finding in check_quarantine(tmp_path):
        may_be_needed = Path(finding.what.split()[0]).name in {"mirror.damaged", "mirror.damaged.1", "mirror.damaged.3"}
        assert ("may need commits that it keeps" in finding.what) is may_be_needed
        assert ("once retention has deleted the runs" in str(finding.fix)) is may_be_needed
    assert len(list(check_quarantine(tmp_path))) == len(list(quarantine.iterdir()))
