"""Whatever leads out of a workspace, git is not led there: nothing of a foreign repository is read or saved."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.workspaces.clean import clean
from daemon.workspaces.jobs import CleanedWorkspace
from tests.support.git_site import GitSite, brought_back, commit, git

THEIRS = "belongs to somebody else"
MINE = "precious\n"
Lead = Callable[[Path, Path], None]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A repository that has nothing to do with the workspace, half of it in a pack."""
    place = tmp_path / "foreign"
    place.mkdir()
    git(place, "init", "-q", "-b", "main")
    commit(place, "packed.txt", f"{THEIRS}\n")
    git(place, "repack", "-q", "-a", "-d")
    commit(place, "loose.txt", f"{THEIRS}, too\n")
    return place


def clean_up(site: GitSite) -> CleanedWorkspace:
    return clean(site.state, "site", "1", site.logged.append, base=site.bases[1], salvage_max=None)


def saved(site: GitSite, tmp_path: Path) -> str:
    """Return every change in every commit of every bundle that was saved."""
    text = ""
    for number, bundle in enumerate(sorted(site.saved().rglob("work.bundle"))):
        git(tmp_path, "clone", "-q", "--mirror", str(bundle), f"back-{number}")
        text += git(tmp_path / f"back-{number}", "log", "--all", "-m", "-p", "--format=%H")
    return text


def lend(repository: Path, line: str) -> None:
    (repository / ".git/objects/info/alternates").write_text(line + "\n")


def borrow(place: Path, foreign: Path) -> None:
    lend(place, str(foreign / ".git/objects"))


def borrow_relatively(place: Path, foreign: Path) -> None:
    lend(place, os.path.relpath(foreign / ".git/objects", place / ".git/objects"))


def borrow_in_quotes(place: Path, foreign: Path) -> None:
    lend(place, '"' + "".join(f"\\{ord(c):03o}" for c in str(foreign / ".git/objects")) + '"')


def borrow_in_a_nested_repository(place: Path, foreign: Path) -> None:
    git(place, "init", "-q", "inner")
    borrow(place / "inner", foreign)


def borrow_through_a_second_repository(place: Path, foreign: Path) -> None:
    git(place, "init", "-q", "inner")
    borrow(place / "inner", foreign)
    lend(place, "../../inner/.git/objects")


def borrow_through_a_link(place: Path, foreign: Path) -> None:
    (place / "lender").symlink_to(foreign / ".git")
    lend(place, str(place / "lender/objects"))


def link_the_packs(place: Path, foreign: Path) -> None:
    shutil.rmtree(place / ".git/objects/pack")
    (place / ".git/objects/pack").symlink_to(foreign / ".git/objects/pack")


def link_one_pack(place: Path, foreign: Path) -> None:
    (place / ".git/objects/pack").mkdir(exist_ok=True)
    for path in (foreign / ".git/objects/pack").iterdir():
        (place / ".git/objects/pack" / path.name).symlink_to(path)


def link_loose_objects(place: Path, foreign: Path) -> None:
    for path in (foreign / ".git/objects").glob("??/*"):
        folder = place / ".git/objects" / path.parent.name
        folder.mkdir(exist_ok=True)
        (folder / path.name).symlink_to(path)


def link_a_folder_of_loose_objects(place: Path, foreign: Path) -> None:
    for path in (foreign / ".git/objects").glob("??"):
        shutil.rmtree(place / ".git/objects" / path.name, ignore_errors=True)
        (place / ".git/objects" / path.name).symlink_to(path)


def link_the_list_of_lenders(place: Path, foreign: Path) -> None:
    (foreign / "list").write_text(f"{foreign}/.git/objects\n")
    (place / ".git/objects/info/alternates").symlink_to(foreign / "list")


def link_the_modules(place: Path, foreign: Path) -> None:
    (place / ".git/modules").symlink_to(foreign.parent)
    for name in ("HEAD", "objects"):  # a bare repository right there
        shutil.move(foreign / ".git" / name, foreign / name)
    shutil.copytree(foreign / ".git/refs", foreign / "refs")


def link_the_objects_of_a_module(place: Path, foreign: Path) -> None:
    module = place / ".git/modules/lib"
    module.mkdir(parents=True)
    shutil.copytree(foreign / ".git/refs", module / "refs")
    shutil.copy(foreign / ".git/HEAD", module / "HEAD")
    (module / "objects").symlink_to(foreign / ".git/objects")


def name_a_foreign_git_folder(place: Path, foreign: Path) -> None:
    (place / "inner").mkdir()
    (place / "inner/.git").write_text(f"gitdir: {foreign}/.git\n")


def name_a_foreign_common_folder(place: Path, foreign: Path) -> None:
    git(place, "init", "-q", "inner")
    (place / "inner/.git/commondir").write_text(f"{foreign}/.git\n")


def link_linked_trees(place: Path, foreign: Path) -> None:
    git(foreign, "worktree", "add", "-q", "--detach", str(foreign.parent / "tree"))
    (place / ".git/worktrees").symlink_to(foreign / ".git/worktrees")


def link_a_linked_tree(place: Path, foreign: Path) -> None:
    git(foreign, "worktree", "add", "-q", "--detach", str(foreign.parent / "tree"))
    (place / ".git/worktrees").mkdir()
    (place / ".git/worktrees/tree").symlink_to(foreign / ".git/worktrees/tree")


LEADS: list[Lead] = [
    borrow,
    borrow_relatively,
    borrow_in_quotes,
    borrow_in_a_nested_repository,
    borrow_through_a_second_repository,
    borrow_through_a_link,
    link_the_packs,
    link_one_pack,
    link_loose_objects,
    link_a_folder_of_loose_objects,
    link_the_list_of_lenders,
    link_the_modules,
    link_the_objects_of_a_module,
    name_a_foreign_git_folder,
    name_a_foreign_common_folder,
    link_linked_trees,
    link_a_linked_tree,
]


@pytest.mark.parametrize("lead", LEADS, ids=lambda lead: lead.__name__)
def test_a_workspace_that_leads_into_a_foreign_repository_is_saved_without_it(
    site: GitSite, foreign: Path, tmp_path: Path, lead: Lead
) -> None:
    place = site.prepare()
    commit(place, "mine.txt", MINE)
    (place / ".git/refs/heads/theirs").write_text(git(foreign, "rev-parse", "HEAD") + "\n")
    lead(place, foreign)
    done = clean_up(site)
    assert done.gone, done.reason
    assert done.saved is not None
    assert THEIRS not in saved(site, tmp_path)
    assert done.saved.as_it_was
    assert b"somebody" not in b"".join(path.read_bytes() for path in site.saved().rglob("work.tar"))
    assert (brought_back(done, tmp_path / "back") / "mine.txt").read_text() == MINE
    assert site.remnants() == []


def include_a_foreign_config(place: Path, foreign: Path) -> None:
    with (place / ".git/config").open("a") as config:
        config.write(f"[include]\n\tpath = {foreign}/.git/config\n")


def name_a_foreign_working_tree(place: Path, foreign: Path) -> None:
    git(place, "config", "core.worktree", str(foreign))


def name_a_foreign_working_tree_in_its_own_config(place: Path, foreign: Path) -> None:
    git(place, "config", "extensions.worktreeConfig", "true")
    (place / ".git/config.worktree").write_text(f"[core]\n\tworktree = {foreign}\n")


def borrow_what_is_gone(place: Path, foreign: Path) -> None:
    borrow(place, foreign)
    shutil.rmtree(foreign)


@pytest.mark.parametrize(
    "lead",
    [
        include_a_foreign_config,
        name_a_foreign_working_tree,
        name_a_foreign_working_tree_in_its_own_config,
        borrow_what_is_gone,
    ],
    ids=lambda lead: lead.__name__,
)
def test_what_git_is_never_shown_does_not_keep_work_from_being_saved(
    site: GitSite, foreign: Path, tmp_path: Path, lead: Lead
) -> None:
    place = site.prepare()
    commit(place, "mine.txt", MINE)
    lead(place, foreign)
    done = clean_up(site)
    assert done.gone, done.reason
    text = saved(site, tmp_path)
    assert "+precious" in text
    assert THEIRS not in text


def test_repositories_that_borrow_from_each_other_inside_the_workspace_are_saved(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    first = commit(place, "mine.txt", MINE)
    git(place, "clone", "-q", "--shared", ".", "inner")
    git(place / "inner", "clone", "-q", "--shared", ".", str(place / "deeper"))
    last = commit(place / "deeper", "deepest.txt", "in the deepest\n")
    lend(place, "../../deeper/.git/objects")  # in a circle
    done = clean_up(site)
    assert done.gone, done.reason
    text = saved(site, tmp_path)
    assert all(part in text for part in (first, last, "+precious", "+in the deepest"))


def test_a_clone_that_borrows_from_the_mirror_is_saved(site: GitSite, tmp_path: Path) -> None:
    place = site.prepare()
    commit(place, "mine.txt", MINE)
    lend(place, str(site.state / "environments/site/mirror/objects"))
    assert clean_up(site).gone
    assert "+precious" in saved(site, tmp_path)
