"""README's tables are the records', and what it says of files and commands is so."""

import re

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


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#:]+)\)", (PROJECT / name).read_text()):
        assert (PROJECT / target).exists(), target


@pytest.mark.parametrize("name", READMES)
def test_both_quick_starts_are_there(name):
    text = (PROJECT / name).read_text()
    assert "pip install -r requirements.txt && python -m steps.run" in text
    assert "pip install -r requirements-dev.txt && python -m pytest" in text
