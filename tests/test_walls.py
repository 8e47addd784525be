"""Which way imports run: the engine and the reports know no model, no ladder, and no metric."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT

OWN = ("common", "steps", "ladders", "tests")
ALLOWED = {"engine": ("common.engine",), "report": ("common.engine", "common.report")}
OF_TRAINING = re.compile(
    r"tok_per_s|tokens|\bGiB\b|\bloss(es)?\b|gradient|head\.weight|flops|vocab|H100|A100|torch|steps\b",
    re.IGNORECASE,
)


def imports(path: Path) -> set[str]:
    """What a module imports of this project, lazily too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] in OWN}


def modules(package: str) -> list[Path]:
    return sorted((PROJECT / "common" / package).glob("*.py"))


def code_of(path: Path) -> str:
    """A module's names and texts, without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                value.value = ""
    return ast.unparse(tree)


@pytest.mark.parametrize(
    ("package", "path"),
    [(package, path) for package in ALLOWED for path in modules(package)],
    ids=lambda value: value.stem if isinstance(value, Path) else value,
)
def test_arrows_run_one_way(package, path):
    outside = {
        name for name in imports(path) if name != "common" and not name.startswith(ALLOWED[package])
    }
    assert not outside


@pytest.mark.parametrize(
    "path", [*modules("engine"), *modules("report")], ids=lambda path: path.stem
)
def test_engine_and_report_name_nothing_of_training(path):
    assert not OF_TRAINING.findall(code_of(path))


def test_a_rung_imports_no_other_ladder_but_what_it_builds_on():
    """Of another ladder only the steps, whose parts beyond's rungs take further."""
    for path in (PROJECT / "ladders").glob("*/step*.py"):
        own = f"ladders.{path.parent.name}"
        for name in imports(path):
            assert name.startswith((own, "common", "steps")), f"{path.name}: {name}"
    for path in (PROJECT / "steps").glob("step*.py"):
        for name in imports(path):
            assert name.startswith(("common", "steps")), f"{path.name}: {name}"


def test_this_test_sees_what_it_forbids(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    from common.build import build\n    return 'tok_per_s'\n")
    assert imports(path) == {"common.workloads.train.build", "common.workloads.train.build.build"}
    assert OF_TRAINING.search(code_of(path))
