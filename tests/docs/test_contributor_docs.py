"""The pages for contributors against the program: what they name exists, and what exists is named."""

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

from daemon.model import ACTIVE, RunStatus
from daemon.rules.states import ALLOWED

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "daemon"
PAGES = sorted((ROOT / ".github").glob("*.md"))
ARCHITECTURE = (ROOT / ".github/ARCHITECTURE.md").read_text()
CONTRIBUTING = (ROOT / ".github/CONTRIBUTING.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = {entry.stem for entry in PACKAGE.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").exists()}
ROOMS -= {"__init__"}


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Return the package's modules as trees, by their dotted names; parsed by the one worker that compares them."""
    return {
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts): ast.parse(file.read_text())
        for file in PACKAGE.rglob("*.py")
    }


def spans(page: str) -> list[str]:
    """Return what stands between backticks, code blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))


def members(scope: ast.AST) -> dict[str, ast.AST]:
    """Return what a module or a class defines: functions, classes, constants and fields."""
    found: dict[str, ast.AST] = {}
    for node in ast.iter_child_nodes(scope):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                found[node.name] = node
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                found[name] = node
    return found


def defines(scope: ast.AST, names: list[str]) -> bool:
    """Return whether a dotted name leads to a definition."""
    for name in names:
        inner = members(scope).get(name)
        if inner is None:
            return False
        scope = inner
    return True


def is_defined(dotted: str) -> bool:
    """Return whether `room.module.Class.member` exists."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        module = modules().get(".".join(parts[:length]))
        if module is not None:
            return defines(module, parts[length:])
    return (PACKAGE.joinpath(*parts) / "__init__.py").exists()


def is_anywhere(dotted: str) -> bool:
    """Return whether some module defines `Class.member`."""
    return any(defines(module, dotted.split(".")) for module in modules().values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_path_on_a_page_exists(page: Path) -> None:
    named = {span for span in spans(page.read_text()) if re.fullmatch(r"[\w./-]+(/|\.(py|md|toml|sql|service))", span)}
    places = (ROOT, PACKAGE, ROOT / "tests/support")
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_every_relative_link_leads_to_a_file_or_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, heading = link.partition("#")
        if "://" not in link:
            target = page.parent / path if path else page
            assert target.exists(), link
            titles = [title.lower().replace(" ", "-") for title in re.findall(r"(?m)^#+ (.+)$", target.read_text())]
            assert not heading or heading in titles, link


@pytest.mark.parametrize("page", [ARCHITECTURE, CONTRIBUTING], ids=["ARCHITECTURE", "CONTRIBUTING"])
def test_every_name_of_the_program_on_a_page_is_defined(page: str) -> None:
    names = {span for span in spans(page) if re.fullmatch(r"\w+(\.\w+)+", span)}
    dotted = {name for name in names if name.partition(".")[0] in ROOMS and not re.search(r"\.(py|toml|db)$", name)}
    of_classes = {name for name in names if name[0].isupper()}
    assert {name for name in dotted if not is_defined(name)} == set()
    assert {name for name in of_classes if not is_anywhere(name)} == set()


def test_the_floors_are_those_of_the_linter() -> None:
    told: dict[int, set[str]] = {}
    for floor, room in re.findall(r"(?m)^\| (\d+) \| `([\w.]+)/?` \|", ARCHITECTURE):
        told.setdefault(int(floor), set()).add(room.removesuffix(".py"))
    layers = [contract for contract in PROJECT["tool"]["importlinter"]["contracts"] if contract["type"] == "layers"]
    [floors] = [contract["layers"] for contract in layers]
    checked = [{room.removeprefix("daemon.") for room in floor.split(" | ")} for floor in floors]
    assert [told[floor] for floor in sorted(told, reverse=True)] == checked
    assert set().union(*checked) == ROOMS


def test_the_picture_of_a_runs_status_is_the_table() -> None:
    picture = re.search(r"stateDiagram-v2\n(.*?)```", ARCHITECTURE, re.DOTALL)
    assert picture is not None
    ends = frozenset(RunStatus) - ACTIVE
    inside = re.search(r"state ended \{(.*?)\}", picture[1], re.DOTALL)
    assert inside is not None
    assert frozenset(inside[1].split()) == ends
    drawn: dict[RunStatus, set[RunStatus]] = {status: set() for status in RunStatus}
    for before, after in re.findall(r"(?m)^ +(\w+) --> (\w+)$", picture[1]):
        drawn[RunStatus(before)] |= ends if after == "ended" else {RunStatus(after)}
    assert drawn == ALLOWED


def test_every_listener_for_commits_is_named() -> None:
    waiting = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if ".on_commit(" in file.read_text()}
    section = ARCHITECTURE.partition("## Whoever commits wakes whoever waits")[2].partition("\n## ")[0]
    assert set(re.findall(r"(?m)^\| `([\w/.]+)` \|", section)) == waiting


def test_every_support_module_of_the_tests_is_explained() -> None:
    support = {entry.stem for entry in (ROOT / "tests/support").glob("[a-z]*") if not entry.name.startswith("__")}
    section = CONTRIBUTING.partition("### Helpers")[2].partition("\n#")[0]
    assert set(re.findall(r"(?m)^\| `(\w+)(?:\.py|/)` \|", section)) == support


def test_every_check_of_ci_is_explained() -> None:
    checks = re.findall(r"(?m)^ *\.venv/bin/(.+)$", (ROOT / ".ci/run").read_text())
    assert len(checks) == 4
    assert all(f"`{check}`" in CONTRIBUTING for check in checks)
    assert all(f"`{tool}" in CONTRIBUTING for tool in ("systemd-analyze verify", "systemd-analyze security"))


def test_every_benchmark_is_explained() -> None:
    scripts = {file.stem for file in (ROOT / "tests/benchmarks").glob("*.py")}
    section = CONTRIBUTING.partition("### Benchmarks")[2].partition("\n#")[0]
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", section)) == scripts


def test_the_urls_of_the_project_lead_to_files() -> None:
    for path in PROJECT["project"]["urls"].values():
        assert (ROOT / path).is_file(), path
