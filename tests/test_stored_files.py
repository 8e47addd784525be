"""Files that are read back: damaged, of another version, or written by somebody else."""

import errno
import json
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from common.cli import campaign, climbing
from common.engine import records as store
from common.engine.errors import UserError
from common.engine.records import Records, append_line, sole_writer
from common.report.frame import to_csv, to_frame
from common.workloads.parallel.recipe import ParallelRecipe
from common.workloads.train.recipe import Recipe
from common.workloads.train.workload import TRAINING
from ladders.beyond import LADDER as BEYOND
from steps import LADDER
from tests.conftest import PROJECT, fake_ladder, fake_record, write_records
from tests.test_settle import Run

LINES = [json.dumps(record).encode() for record in fake_ladder({0: [1.0, 1.1], 1: [2.0, 2.1]})]
DEEP = b"[" * 100_000


@pytest.fixture
def climb(tmp_path, monkeypatch) -> Run:
    return Run(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (b"\xef\xbb\xbf" + b"\n".join(LINES), 4),  # a mark that editors put there
        (b"\r\n".join(LINES), 4),
        (b"\n".join([*LINES[:3], LINES[3][:300]]), 3),
        (b"\n".join([LINES[0][:300], *LINES[1:]]), 3),
        (b"\n".join([*LINES, DEEP, b"9" * 5000, b"\0" * 512]), 4),
    ],
)
def test_whole_lines_are_read(tmp_path, content, count):
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    assert len(Records(path).read()) == count


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no records"),
        (b"\n", "holds no records"),
        (LINES[0][:300], "holds no records"),
        (b"\xff\xfe" + LINES[0], "cannot be read as records"),
        (b"[1]\n", "not a file of this project's records"),
        (b"12\n", "not a file of this project's records"),
        (b'{"schema": 0}\n', "not a file of this project's records"),
        (b'{"schema": 99}\n', "written by a newer version"),
        (LINES[0].replace(b'"rung": 0', b'"rung": "0"'), "not a file of this project's records"),
        (LINES[0].replace(b'"applied": []', b'"applied": 7'), "not a file of this project's"),
        (None, "cannot be read as records"),  # a folder
    ],
)
def test_what_are_no_records_is_a_sentence(tmp_path, content, message):
    path = tmp_path / "records.jsonl"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Records(path).read()


def test_the_status_survives_those_who_read_the_csv(tmp_path):
    """Also in the committed ones, and every other word: what pandas takes for a hole is none."""
    refused = fake_record(2, 1, 1.0, applied=[1], status="skipped", reason="no card", recipe=None)
    (tmp_path / "ladder.csv").write_text(
        to_csv(to_frame([*fake_ladder({0: [1.0], 1: [2.0]}), refused], TRAINING))
    )
    for path in (tmp_path / "ladder.csv", *(PROJECT / "results").rglob("ladder.csv")):
        plain = pd.read_csv(path, dtype=str, keep_default_na=False)
        assert (pd.read_csv(path).isna() == (plain == "")).all(axis=None), path
        assert pd.read_csv(path)["status"].notna().all()
    assert pd.read_csv(tmp_path / "ladder.csv")["status"].tolist() == ["ok", "ok", "skipped"]


def test_the_status_of_old_records_is_read_as_todays(tmp_path):
    old = fake_record(0, 1, 1.0, status="n/a", refused={"one": {"status": "n/a", "reason": "no"}})
    (found,) = Records(write_records(tmp_path / "records.jsonl", [old])).read()
    assert found["status"] == found["refused"]["one"]["status"] == "skipped"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys, code):
    fcntl = pytest.importorskip("fcntl")

    def refuses(*arguments):
        raise OSError(code, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuses)
    monkeypatch.setattr(store.os, "fsync", refuses)
    with sole_writer(tmp_path):
        append_line(tmp_path / "lines.jsonl", {"a": 1})
    assert (tmp_path / "lines.jsonl").read_text() == '{"a": 1}\n'
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path}: its file system has no locks")
    assert len(said.splitlines()) == 1


def test_a_lock_that_cannot_be_had_is_a_sentence(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match="cannot be written"), sole_writer(tmp_path):
        pytest.fail("it was held")


def test_a_holder_that_is_no_text_is_named_all_the_same(tmp_path):
    with sole_writer(tmp_path):
        (tmp_path / ".lock").write_bytes(b"\xff\xfe")
        with pytest.raises(UserError, match="is writing there"), sole_writer(tmp_path):
            pytest.fail("it was held twice")


FOREIGN = (
    "tests.spy.Spy",  # on the path, and none of the project's parts
    "os.system",
    "subprocess.Popen",
    "pathlib.Path",
    "common.gpt.text.main",  # the project's, and no type
    "common.gpt.text.Path",  # only imported there
    "common.cli.climbing.Counter",
    "stepsister.Layer",
    "steps.no_such.Layer",
    "ladders..Layer",
    "torch.utils.bottleneck.__main__.main",
    "torch.distributed.run.main",
    "torch.hub.load",
    "../evil.py",
    "/tmp/a.b/c",
    ".",
    "a.",
    "",
)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("field", ["mask", "loader", "optimizer", "dtype", "recipe", "pipeline"])
def test_a_record_names_types_of_this_project_and_of_torch(name, field):
    before = {*sys.modules}
    whole = ParallelRecipe().to_json() if field == "pipeline" else Recipe().to_json()
    with pytest.raises(ValueError, match="is no type of this project or of torch"):
        Recipe.from_record(whole | {field: name})
    new = {module.partition(".")[0] for module in {*sys.modules} - before}
    assert new <= {"common", "steps", "ladders"}
    assert "torch.utils.bottleneck.__main__" not in sys.modules


def test_a_recipe_of_every_rung_comes_back_from_its_record():
    gpu = replace(Run.__call__.__kwdefaults__["device"], type="cuda", vendor="nvidia",
                  native_bf16=True, capability=(9, 0), count=2)  # fmt: skip
    for ladder in (LADDER, BEYOND):
        recipe = ladder.foot(Recipe(dropout=0.1, devices=2), gpu)
        for rung in ladder.rungs:
            for found in (rung.apply(recipe), *rung.candidates(gpu, recipe).values()):
                values = json.loads(json.dumps(found.to_json()))
                assert Recipe.from_record(values) == Recipe.from_json(values) == found


@pytest.mark.parametrize("path", ["/tmp/cache.d/x", "./a.b", "max.autotune", "a.b.c"])
def test_a_text_with_a_dot_stays_a_text(path):
    recipe = Recipe(compile_mode=path, environment=(f"CACHE={path}",))
    assert Recipe.from_json(recipe.to_json()) == Recipe.from_record(recipe.to_json()) == recipe


def test_a_recipe_of_the_tests_comes_back_in_a_trusted_job():
    recipe = Recipe(mask=Spy, optimizer=torch.optim.SGD)
    assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(ValueError, match="is no type of this project"):
        Recipe.from_record(recipe.to_json())


class Spy(torch.nn.Module):
    """A type that is neither the project's nor torch's."""


@pytest.mark.parametrize(
    "spoilt",
    [
        {"recipe": {"mask": "tests.spy.Spy"}},
        {"recipe": {"loader": "/tmp/a.b"}},
        {"recipe": {"no_such": 1}},
        {"recipe": 7},
        {"recipe": None},
        {"measurement": {}},
        {"note": 7},
        {"wall_s": "long"},
    ],
)
def test_a_kept_record_of_somebody_else_is_refused(climb, spoilt):
    climb((3,))
    path = climb.folder / "records.jsonl"
    record = json.loads(path.read_text())
    if isinstance(spoilt.get("recipe"), dict):
        spoilt = {"recipe": record["recipe"] | spoilt["recipe"]}
    path.write_text(json.dumps(record | spoilt) + "\n")
    with pytest.raises(UserError, match="not a record of ours") as raised:
        climb((3,), resume=True)
    assert "\n" not in str(raised.value)
    assert "tests.spy" not in sys.modules


@pytest.mark.parametrize(
    "changes", [{"environment": ["LD_PRELOAD=/tmp/evil.so"]}, {"learning_rate": 1.0}]
)
def test_a_kept_recipe_is_what_its_rungs_make(climb, changes):
    """Of plain values, too: one of them says what a child's environment is."""
    (honest,) = climb((5,))
    path, count = climb.folder / "records.jsonl", len(climb.jobs)
    assert climb((5,), resume=True) == [honest]
    assert len(climb.jobs) == count
    path.write_text(json.dumps(honest | {"recipe": honest["recipe"] | changes}) + "\n")
    again = climb((5,), resume=True)[-1]
    assert len(climb.jobs) > count
    assert again["recipe"] == honest["recipe"]
    assert all(job["recipe"] != honest["recipe"] | changes for job in climb.jobs)


@pytest.mark.parametrize("content", [b"", b"\n", LINES[0][:300]])
def test_a_run_that_was_killed_before_its_first_line_starts_afresh(tmp_path, content, capsys):
    (tmp_path / "records.jsonl").write_bytes(content)
    said = climbing.go_on(Kept(Records(tmp_path / "records.jsonl")))
    assert said == f"nothing to resume in {tmp_path}: starting afresh"


class Kept:
    """A climb, as far as `go_on` asks it."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def resume(self) -> int:
        return len(self.records.read())


CAMPAIGN = {"spent_s": 1.0, "tasks": {"steps": "done"}, "seconds": {"steps": 2.0}, "options": []}


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", "7", json.dumps(CAMPAIGN)[:40], DEEP.decode(), "9" * 5000),
        *(
            json.dumps(CAMPAIGN | spoilt)
            for spoilt in (
                {"spent_s": float("nan")},
                {"spent_s": -1},
                {"spent_s": "much"},
                {"tasks": 7},
                {"seconds": {"steps": "long"}},
                {"seconds": ["steps"]},
                {"options": None},
            )
        ),
    ],
)
def test_what_is_no_campaign_is_a_sentence(tmp_path, content):
    (tmp_path / "campaign.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read as a campaign"):
        fresh(tmp_path).load()


def test_a_campaign_is_read_back_with_an_editors_mark(tmp_path):
    (tmp_path / "campaign.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(CAMPAIGN).encode())
    found = fresh(tmp_path)
    found.load()
    assert (found.spent_s, found.tasks, found.seconds) == (1.0, {"steps": "done"}, {"steps": 2.0})


def test_a_half_written_rate_of_the_scripts_is_passed_over(tmp_path):
    path = tmp_path / "scripts.jsonl"
    path.write_text('{"tok_per_s": 100}\n{"tok_per_s": 90}\n{"tok_p')
    assert campaign.share_kept(path).startswith("02 with one process over 01: 0.900")
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="records of another kind"):
        campaign.share_kept(path)


def fresh(folder: Path) -> campaign.Campaign:
    return campaign.Campaign(out=folder, work=None, workload_options=[], each_s=60.0, began=0.0)
