"""How the tests are laid out."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def imported_by(file: Path) -> set[str]:
    """Return the modules of `tests` from which a file imports."""
    found = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    return {str(node.module) for node in found if str(node.module).partition(".")[0] == "tests"}


def test_tests_import_helpers_from_tests_support_alone() -> None:
    borrowed = {
        str(file.relative_to(TESTS)): names
        for file in TESTS.rglob("*.py")
        if (names := {name for name in imported_by(file) if not name.startswith("tests.support")})
    }
    assert borrowed == {}
