"""Which way imports run: the engine and the reports know no model, no ladder, and no metric."""

import ast
import re
from pathlib import Path

import pytest

from ladders import LADDERS
from tests.conftest import PROJECT

OWN = ("common", "steps", "ladders", "tests")
# what each part of the house may import, beside itself: the arrows of CONTRIBUTING.md
ARROWS = {
    "common.engine": (),
    "common.report": ("common.engine",),
    "common.diagnose": ("common.engine",),
    "common.accelerator": ("common.engine",),
    "common.gpt": ("common.engine",),
    "common.workloads.train": (
        *("common.engine", "common.report", "common.accelerator", "common.gpt"),
        "common.diagnose",
    ),
    "common.workloads.parallel": (
        *("common.engine", "common.accelerator", "common.gpt", "common.workloads.train"),
    ),
    "common.workloads.batches": (
        *("common.engine", "common.accelerator", "common.gpt", "common.workloads.train"),
    ),
    "common.workloads.generate": (
        *("common.engine", "common.report", "common.accelerator", "common.gpt"),
        "common.workloads.train",
    ),
    "common.workloads.compress": (
        *("common.engine", "common.report", "common.accelerator", "common.gpt"),
        *("common.workloads.train", "common.workloads.generate"),
    ),
    "common.workloads.finetune": (
        *("common.engine", "common.report", "common.accelerator", "common.gpt"),
        *("common.workloads.train", "common.workloads.batches", "common.workloads.generate"),
    ),
    "common.workloads.convergence": (
        *("common.engine", "common.report", "common.accelerator", "common.gpt"),
        "common.workloads.train",
    ),
    "common.workloads.command": ("common.engine", "common.accelerator", "common.diagnose"),
    "common.workloads.own": (*("common.engine", "common.accelerator", "common.workloads.train"),),
    "steps": ("common.engine", "common.accelerator", "common.gpt", "common.workloads"),
    "ladders": ("common.engine", "common.accelerator", "common.gpt", "common.workloads", "steps"),
    "common.scripts": (
        *("common.engine", "common.accelerator", "common.gpt", "common.workloads"),
        "common.diagnose",
    ),
    "common.forecast": ("common", "steps", "ladders"),
    "common.memory": ("common", "steps", "ladders"),
    "common.cli": ("common", "steps", "ladders"),
}
DOORS = {
    "steps": ("run", "doctor", "compare", "check", "campaign", "publish", "report", "diagnose"),
    "ladders": ("forecast", "table", "track", "sensitivity"),
    "common.gpt": ("generate",),
}
OF_WORKLOADS = re.compile(
    r"tok_per_s|tokens|\bloss(es)?\b|gradient|head\.weight|flops|vocab|batch|H100|A100|\btorch\b",
    re.IGNORECASE,
)


def name_of(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    name_of(path): path
    for folder in ("common", "steps", "ladders")
    for path in sorted((PROJECT / folder).rglob("*.py"))
}


def imports(path: Path) -> set[str]:
    """What a module imports of this project, lazily too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    named = {name for name in found if name.partition(".")[0] in OWN}
    return {name if name in MODULES else name.rpartition(".")[0] for name in named}


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


def part_of(name: str) -> str:
    """The part of the house that a module belongs to."""
    return max((part for part in ARROWS if within(name, part)), key=len, default="")


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def is_door(name: str) -> bool:
    last = name.rpartition(".")[2]
    return any(within(name, part) and last in doors for part, doors in DOORS.items())


@pytest.mark.parametrize("part", ARROWS)
def test_arrows_run_one_way(part):
    for name, path in MODULES.items():
        if part_of(name) == part and not is_door(name):
            for other in imports(path):
                assert any(within(other, to) for to in (part, *ARROWS[part])), f"{name}: {other}"


def test_every_module_is_in_a_part_of_the_house_or_is_a_door():
    outside = {name for name in MODULES if not part_of(name)}
    assert outside == {"common", "common.data", "common.workloads"}


def test_there_is_no_import_circle():
    """Not a lazy one either: modules are taken away as soon as all that they import is gone."""
    graph = {name: imports(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    while ready := {name for name, needs in graph.items() if not needs}:
        graph = {name: needs - ready for name, needs in graph.items() if name not in ready}
    assert not graph


@pytest.mark.parametrize(
    "name", [name for name in MODULES if part_of(name) in ("common.engine", "common.report")]
)
def test_engine_and_report_name_no_workload_and_no_ladder(name):
    code = code_of(MODULES[name])
    assert OF_WORKLOADS.search(code) is None
    texts = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    assert not texts & {*LADDERS, *LADDERS.values()}


@pytest.mark.parametrize("name", filter(is_door, MODULES))
def test_a_door_is_a_few_lines(name):
    assert len(MODULES[name].read_text().splitlines()) <= 12


def test_an_engine_file_is_short():
    for name, path in MODULES.items():
        if part_of(name) == "common.engine":
            assert len(path.read_text().splitlines()) <= 250, name


def test_a_rung_imports_no_other_ladder_but_the_steps():
    for path in (PROJECT / "ladders").glob("*/step*.py"):
        for name in imports(path):
            assert within(name, f"ladders.{path.parent.name}") or not within(name, "ladders")


def test_this_test_sees_what_it_forbids(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    from common.gpt import model\n    return 'tok_per_s'\n")
    assert imports(path) == {"common.gpt.model"}
    assert OF_WORKLOADS.search(code_of(path))
