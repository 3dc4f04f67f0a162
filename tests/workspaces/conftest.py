"""A state directory, and a repository whose clones are workspaces in it."""

from pathlib import Path

import pytest

from tests.support.git_site import GitSite


@pytest.fixture
def site(tmp_path: Path) -> GitSite:
    return GitSite(tmp_path)
