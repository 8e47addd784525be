"""README's tables are the records', and what the pages say of files and commands is so."""

import csv
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.cli.readme import READMES, with_tables
from common.engine.records import Records
from common.report.frame import to_csv, to_frame
from common.report.tables import to_markdown
from ladders import of_records
from tests.conftest import PROJECT

RUNS = PROJECT / "results" / "runs"  # not committed
MACHINES = sorted(
    path.parent
    for path in (PROJECT / "results").glob("**/records.jsonl")
    if RUNS not in path.parents
)
PAGES = sorted(p for at in (".", "docs", "ladders", "launch") for p in (PROJECT / at).glob("*.md"))
TODAY = [page for page in PAGES if page.name != "LOG.md"]  # which keeps commands of its time
JAPANESE = [page for page in PAGES if page.name.endswith(".ja.md")]
MOST_WORDS, FIRST_SCREEN = 1200, 25
CODE = re.compile(r"^```\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def commands(page: Path) -> list[str]:
    """The lines of its code blocks that start something, without what is said of them."""
    lines = "\n".join(CODE.findall(page.read_text())).replace("\\\n", " ").splitlines()
    starts = ("python", "pip", "torchrun", "pre-commit", "export")
    return [re.sub(r"\s*#.*", "", line) for line in lines if line.startswith(starts)]


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives them."""
    found = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


@pytest.mark.parametrize("name", READMES)
def test_tables_are_the_records(name):
    text = (PROJECT / name).read_text()
    assert "<!-- table results/" in text
    assert with_tables(text) == text, "run: python -m common.cli.readme"


@pytest.mark.parametrize("folder", MACHINES, ids=lambda path: path.name)
def test_committed_tables_are_the_records(folder):
    records = Records(folder / "records.jsonl").read()
    ladder = of_records(records)
    if (folder / "ladder.csv").exists():  # not beside a loss curve
        assert (folder / "ladder.csv").read_text() == to_csv(to_frame(records, ladder.workload))
    expected = to_markdown(records, ladder.workload, ladder.published())
    assert (folder / "ladder.md").read_text() == expected


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not heading or heading in headings(there), target


@pytest.mark.parametrize("name", READMES)
def test_both_quick_starts_are_there(name):
    text = (PROJECT / name).read_text()
    assert "pip install -r requirements.txt && python -m steps.run" in text
    assert "pip install -r requirements-dev.txt && python -m pytest" in text


@pytest.mark.parametrize("name", READMES)
def test_the_first_screen_has_result_command_requirements_and_picture(name):
    first = "\n".join((PROJECT / name).read_text().splitlines()[:FIRST_SCREEN])
    with (PROJECT / "results/nvidia-h200/ladder.csv").open() as file:
        rungs = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    assert "NVIDIA H200" in first
    for row in (rungs[0], rungs[-1]):
        assert f"{float(row['tok_per_s']):,.0f}" in first
    assert f"**{float(rungs[-1]['x_base']):.1f} " in first
    assert "pip install -r requirements.txt && python -m steps.run" in first
    assert "Python 3.11" in first and "python -m venv" in first
    assert "](results/nvidia-h200/ladder.png)" in first


def test_readme_is_short():
    """A word has a letter or a digit: the bars of tables have none."""
    words = re.findall(r"\S*\w\S*", (PROJECT / "README.md").read_text())
    assert len(words) <= MOST_WORDS, len(words)


@pytest.mark.parametrize("page", TODAY, ids=name_of)
def test_commands_exist(page):
    """Modules, scripts, and requirements that a page names, without running any."""
    text = page.read_text()
    for module in re.findall(r"python -m ([\w.]*\w)", text):
        assert find_spec(module), module
    for line in commands(page):
        for file in re.findall(r"[\w/.-]+\.(?:py|txt|sh|yaml)\b", line):
            assert (PROJECT / file).exists(), line


@pytest.mark.parametrize("page", JAPANESE, ids=name_of)
def test_both_languages_show_the_same_commands(page):
    assert commands(page) == commands(page.with_name(page.name.replace(".ja.md", ".md")))
