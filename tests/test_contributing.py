"""CONTRIBUTING's recipe for a rung, followed in a copy of the project: what it names is enough."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.engine.contract import Numerics
from common.engine.errors import UserError
from common.engine.ladder import Ladder, Rung
from ladders.beyond import LADDER as BEYOND
from steps import LADDER
from tests.conftest import PROJECT, SHORT_RUN
from tests.faulty import rung

NUMBER = LADDER.top + 1
STEP = f'''"""{NUMBER}. Rounded decay.

Changes: AdamW's weight decay is 0.1000001.
Why faster: it is not; this file is a template that the tests add to a copy of the project.
Cost: nothing to speak of.
When not: always.
Source: tests/test_contributing.py
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.train.build import Run
from common.workloads.train.recipe import Recipe

CHANGES = ("weight_decay",)
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: Recipe) -> str | None:
    return None


def in_effect(run: Run) -> str:
    if (decay := run.optimizer.param_groups[0]["weight_decay"]) != 0.1000001:
        raise NotInEffect(f"the decay is {{decay}}")
    return "decay 0.1000001"


def apply(recipe: Recipe) -> Recipe:
    return replace(recipe, weight_decay=0.1000001)
'''
BEYOND_NUMBER = BEYOND.top + 1
BEYOND_RUNG = (
    STEP.replace(f"{NUMBER}. Rounded decay", f"{BEYOND_NUMBER}. Once more rounded")
    .replace("0.1000001", "0.1000002")
    .replace("contributing.py\n", "contributing.py\nExpected: nothing.\n", 1)
)
PAGE = (PROJECT / "CONTRIBUTING.md").read_text()
LIST = PAGE[PAGE.index("## Add a rung") : PAGE.index("Parity is tested")]
# the files that its list names for a step, beside the step's own
NAMED = set(re.findall(r"`([\w/.]+\.(?:py|md))`", LIST)) - {"steps/stepNN_name.py"}


def after(path: Path, line: str, new: str) -> None:
    """Add a line behind the last one that begins so."""
    lines = path.read_text().splitlines()
    place = max(n for n, text in enumerate(lines) if text.startswith(line))
    path.write_text("\n".join([*lines[: place + 1], new, *lines[place + 1 :]]) + "\n")


def add_step(copy: Path) -> None:
    """Steps 1 to 6 of CONTRIBUTING's list."""
    name = f"step{NUMBER:02}_rounded_decay"
    (copy / "steps" / f"{name}.py").write_text(STEP)
    package = copy / "steps/__init__.py"
    last = LADDER.rung(LADDER.top).module.__name__.rpartition(".")[2]
    package.write_text(re.sub(rf"( +){last},", rf"\1{last},\n\1{name},", package.read_text()))
    for script in ("01_opt_single_gpu.py", "02_opt_multi_gpu_ddp.py"):
        after(copy / script, "    batch_size=", "    weight_decay=0.1000001,")
    add_row(copy, "STEPS_TABLE", LADDER.top, f"{NUMBER} Rounded decay")
    for readme in ("README.md", "README.ja.md"):
        line = f"| [{NUMBER}](steps/{name}.py) | a template of the tests |"
        after(copy / readme, f"| [{LADDER.top}](steps/", line)


def add_beyond(copy: Path) -> None:
    name = f"step{BEYOND_NUMBER:02}_once_more_rounded"
    (copy / "ladders/beyond" / f"{name}.py").write_text(BEYOND_RUNG)
    package = copy / "ladders/beyond/__init__.py"
    last = BEYOND.rung(BEYOND.top).module.__name__.rpartition(".")[2]
    package.write_text(re.sub(rf"( +){last},", rf"\1{last},\n\1{name},", package.read_text()))
    add_row(copy, "BEYOND_TABLE", BEYOND.top, f"{BEYOND_NUMBER} Once more rounded")


def add_row(copy: Path, table: str, top: int, name: str) -> None:
    """A row that applies everywhere, under the last one of a table of devices."""
    path = copy / "tests/test_applies.py"
    before, after = path.read_text().split(f"{table} = ")
    last = re.search(rf"^{top} .*$", after, re.MULTILINE)[0]
    dots = re.sub(r"\w", ".", last[25:])
    path.write_text(f"{before}{table} = " + after.replace(last, f"{last}\n{name:<25}{dots}", 1))


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The project with one more step and one more rung of beyond."""
    folder = tmp_path_factory.mktemp("copy") / "project"
    hidden = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.png", ".pytest_cache")
    shutil.copytree(PROJECT, folder, ignore=hidden)
    add_step(folder)
    add_beyond(folder)
    return folder


def inside(copy: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_nothing_but_what_contributing_names_is_touched(copy):
    changed = set()
    for path in (*copy.rglob("*.py"), *copy.rglob("*.md")):
        name = str(path.relative_to(copy))
        before = PROJECT / name
        if not before.exists():
            assert str(Path(name).parent) in {"steps", "ladders/beyond"}
        elif before.read_text() != path.read_text():
            changed.add(name)
    assert changed == NAMED | {"ladders/beyond/__init__.py"}


def test_the_tests_of_the_ladders_pass_with_one_more_rung(copy):
    """Those that read every rung; of those that train, the new ones' own: the parity of a step.

    The rungs below are as they were, and two of them are compiled.
    """
    files = ("lessons", "applies", "scripts", "parity", "beyond", "command_line", "forecast")
    named = [f"tests/test_{name}.py" for name in files]
    quick = (
        "foot_and_top_are or differ or declared_fields or titles or apply or lesson or list or "
        "state_dict or its_numbers or published or stands or parity_of_step or "
        f"[{NUMBER}] or [{BEYOND_NUMBER}]"
    )
    done = inside(
        copy, "-m", "pytest", "-n0", *named, "-k", quick, "-p", "no:cacheprovider", "--no-header"
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-500:]


def test_one_more_rung_is_measured(copy, tmp_path):
    options = ("--preset", "tiny", "--device", "cpu", "--rounds", "1", "--steps", "2")
    done = inside(
        copy, *SHORT_RUN, *options, "--only", f"0,{NUMBER}", "--layers", "1",
        "--out", str(tmp_path), CXX="/no/such/compiler",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"{NUMBER} Rounded decay .* tok/s .*decay 0.1000001", done.stdout)


@pytest.mark.parametrize("part", ["CHANGES", "NUMERICS", "applies", "in_effect", "apply"])
def test_a_rung_that_lacks_a_part_is_named_when_its_ladder_is_loaded(part):
    module = rung(1, "Half", lambda run: "")
    delattr(module, part)
    with pytest.raises(UserError, match=rf"rung 1: {part} must be there"):
        Ladder(name="made up", workload=None, modules=(module,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"__doc__": None}, 'must begin with "1. Title."'),
        ({"NUMERICS": "exact"}, "NUMERICS must be there, of type Numerics"),
        ({"BASE": "one"}, "BASE must be there, of type int"),
        ({"candidates": ()}, "candidates must be there"),
    ],
)
def test_a_part_of_another_kind_is_named_too(changes, message):
    whole = vars(rung(1, "Whole", lambda run: ""))
    assert Rung.of(1, SimpleNamespace(**whole)).title == "Whole"
    assert whole["NUMERICS"] is Numerics.EXACT
    with pytest.raises(UserError, match=re.escape(message)):
        Rung.of(1, SimpleNamespace(**whole | changes))
