"""`agentcron doctor`: whether the repositories of environments respond, and have the ref that the config names."""

import os
import subprocess
from pathlib import Path

import pytest

from daemon.config.loading import load_config
from daemon.doctor.findings import Finding
from daemon.doctor.reachable import check_reachable
from tests.support.git_site import GitSite, git
from tests.support.other_user import NOBODY


@pytest.fixture
def site(tmp_path: Path) -> GitSite:
    site = GitSite(tmp_path)
    git(site.origin, "branch", "topic/one")
    git(site.origin, "tag", "v1")
    return site


def finding_of(site: GitSite, ref: str | None = None, *, more: str = "") -> Finding:
    """Return what doctor finds about the environment `site` with a ref."""
    text = f"[environments.site]\nmode = 'git'\nrepository = '{site.origin}'\n{more}"
    text += "" if ref is None else f"ref = '{ref}'\n"
    file = site.state.parent / "config.toml"
    file.write_text(f"[daemon]\nstate_dir = 'state'\n[agents.a]\ncommand = ['true']\n{text}")
    found = check_reachable(load_config(file), lambda: True)
    [finding] = [one for one in found if one.about.startswith("environments.")]
    return finding


@pytest.mark.parametrize("ref", [None, "main", "topic/one", "v1", "heads/main", "refs/tags/v1"])
def test_a_ref_that_the_repository_has_is_good(site: GitSite, ref: str | None) -> None:
    finding = finding_of(site, ref)
    assert (finding.severity, finding.about) == ("ok", "environments.site.repository")


@pytest.mark.parametrize("ref", ["mian", "one", "main-gone", "main*", "refs/heads/v1", "-q", "--upload-pack=x"])
def test_a_ref_that_the_repository_lacks_is_an_error(site: GitSite, ref: str) -> None:
    finding = finding_of(site, ref)
    assert (finding.severity, finding.about) == ("error", "environments.site.ref")
    assert finding.what == f"{ref!r} is not a branch or tag of the repository"
    assert finding.fix == "push it, or correct ref"


def test_a_commit_is_known_once_it_was_fetched(site: GitSite) -> None:
    refs = (site.first, site.first[:8], site.first.upper(), f"v1-3-g{site.first[:8]}", "main~0", "HEAD")
    for ref in refs:
        finding = finding_of(site, ref)
        assert (finding.severity, finding.about) == ("note", "environments.site.ref")
        assert "whether it is a commit shows when it is fetched" in finding.what
    site.prepare()
    for ref in refs:
        assert finding_of(site, ref).severity == "ok"
    assert finding_of(site, "0" * 40).severity == "note"


def test_a_repository_that_does_not_respond_is_only_reported_as_such(site: GitSite) -> None:
    site.origin.rename(site.origin.with_name("away"))
    assert [finding_of(site, "mian").about, finding_of(site, "mian").severity] == [
        "environments.site.repository",
        "warning",
    ]
    assert finding_of(site, "mian", more="require_fetch = true\n").severity == "error"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_repository_of_another_user_responds(site: GitSite) -> None:
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(site.origin)], check=True)
    assert finding_of(site, "main").severity == "ok"
