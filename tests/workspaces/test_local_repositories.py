"""People who can push to a repository on this host choose where its submodules lead, but not to all of the host."""

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.workspaces import submodules as submodules_module
from daemon.workspaces.fetch import fetch_mirrors
from daemon.workspaces.mirror import CloneError
from tests.support.git_site import GitSite, commit, git
from tests.support.ssh_remotes import add_submodule, head


@pytest.fixture
def local(tmp_path: Path) -> GitSite:
    """A site of which the repository is in the folder `srv`, with the state in the same folder as `srv`."""
    site = GitSite(tmp_path)
    (tmp_path / "srv").mkdir()
    site.origin = site.origin.rename(tmp_path / "srv" / "origin")
    return site


def make(place: Path) -> Path:
    """Make a repository with one commit."""
    place.mkdir(parents=True)
    git(place, "init", "-q", "-b", "main")
    commit(place, "name.txt", f"{place.name}\n")
    return place


def mirror_of_another(site: GitSite) -> Path:
    """Return the mirror of another environment."""
    other = site.state / "environments" / "other" / "mirror"
    other.parent.mkdir(parents=True)
    git(site.state, "clone", "-q", "--mirror", str(make(site.state.parent / "other")), str(other))
    return other


def use(site: GitSite, url: str, of: Path) -> None:
    add_submodule(site.origin, "lib", url, head(of))


@pytest.fixture(params=["mirrors", "remotes"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "remotes":
        monkeypatch.setattr(submodules_module, "_MOST", 0)


@pytest.mark.usefixtures("_both_ways")
class TestBothWays:
    """What holds for submodules that are cloned from mirrors holds for those beyond their bound."""

    @pytest.mark.parametrize("form", ["{}", "file://{}", "file:/{}", "{}/../mirror", "mirror/../../other/mirror"])
    def test_a_submodule_never_leads_into_the_state_directory(self, local: GitSite, form: str) -> None:
        other = mirror_of_another(local)
        form = form.replace("file:/{", "file://srv/..{")
        use(local, form.format(other), other)
        with pytest.raises(CloneError, match=r"the submodule 'lib' (leads to .*state directory|.* is a relative path)"):
            local.prepare()
        assert not list(local.state.glob("environments/site/submodules/*"))

    def test_a_submodule_leads_only_to_what_is_beside_its_repository(self, local: GitSite, tmp_path: Path) -> None:
        elsewhere = make(tmp_path / "home" / "private")
        use(local, str(elsewhere), elsewhere)
        with pytest.raises(CloneError, match=rf"'lib' leads to {elsewhere}, .* not beside the repository"):
            local.prepare()

    @pytest.mark.parametrize("url", ["../group/lib", "{}/group/lib", "./lib"])
    def test_submodules_beside_and_in_their_repository_are_cloned_without_hard_links(
        self, local: GitSite, url: str
    ) -> None:
        srv = local.origin.parent
        lib = make(local.origin / "lib" if url == "./lib" else srv / "group" / "lib")
        nested = make(srv / "nested")
        add_submodule(lib, "nested", str(nested), head(nested))
        use(local, url.format(srv), lib)
        place = local.prepare()
        assert (place / "lib" / "nested" / "name.txt").read_text() == "nested\n"
        assert git(place / "lib" / "nested", "config", "remote.origin.url") == str(nested)
        assert not [path for path in place.rglob("*") if path.is_file() and path.stat().st_nlink > 1]

    def test_a_nested_submodule_is_held_to_the_same(self, local: GitSite) -> None:
        other, lib = mirror_of_another(local), make(local.origin.parent / "lib")
        add_submodule(lib, "nested", str(other), head(other))
        use(local, "../lib", lib)
        with pytest.raises(CloneError, match=r"the submodule 'nested' leads to .*into the state directory"):
            local.prepare()


def as_link(place: Path, other: Path) -> None:
    place.symlink_to(other)


def as_link_of_suffix(place: Path, other: Path) -> None:
    place.with_name("lib.git").symlink_to(other)


def as_git_file(place: Path, other: Path) -> None:
    place.write_text(f"gitdir: {other}\n")


def as_common(place: Path, other: Path) -> None:
    make(place)
    (place / ".git" / "commondir").write_text(f"{other}\n")


def as_alternate(place: Path, other: Path) -> None:
    make(place)
    (place / ".git" / "objects" / "info" / "alternates").write_text(f"# c\n{other}/objects\n")


def as_quoted_alternate(place: Path, other: Path) -> None:
    make(place)
    (place / ".git" / "objects" / "info" / "alternates").write_text(f'"{other}/objects"\n')


def as_linked_objects(place: Path, other: Path) -> None:
    make(place)
    pack = place / ".git" / "objects" / "pack"
    pack.rmdir()
    pack.symlink_to(other / "objects" / "pack")


@pytest.mark.parametrize(
    "plant",
    [as_link, as_link_of_suffix, as_git_file, as_common, as_alternate, as_quoted_alternate, as_linked_objects],
)
def test_nothing_that_is_pushed_into_a_working_tree_leads_elsewhere(
    local: GitSite, plant: Callable[[Path, Path], None]
) -> None:
    other = mirror_of_another(local)
    plant(local.origin / "lib", other)
    use(local, "./lib", other)
    with pytest.raises(CloneError, match=r"'lib' leads to .*into the state directory|a quoted name"):
        local.prepare()


@pytest.mark.parametrize("key", ['[lfs]\n\turl = "{}"\n', '[remote "origin"]\n\tlfsurl = "file://{}"\n'])
def test_files_in_git_lfs_come_from_no_other_environment(local: GitSite, key: str) -> None:
    commit(local.origin, ".gitattributes", "*.bin filter=lfs -text\n")
    commit(local.origin, ".lfsconfig", key.format(mirror_of_another(local)))
    expected = r"the server of Git LFS in \.lfsconfig leads to .*into the state directory"
    with pytest.raises(CloneError, match=expected):
        fetch_mirrors(local.state, local.source(), 60, local.logged.append, print)
    with pytest.raises(CloneError, match=expected):
        local.prepare()


def test_the_file_that_names_the_server_of_git_lfs_is_no_link(local: GitSite) -> None:
    commit(local.origin, ".gitattributes", "*.bin filter=lfs -text\n")
    (local.origin / ".lfsconfig").symlink_to("a.txt")
    git(local.origin, "add", ".lfsconfig")
    git(local.origin, "commit", "-q", "-m", "a link")
    with pytest.raises(CloneError, match=r"\.lfsconfig is not a regular file"):
        local.prepare()
