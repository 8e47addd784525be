"""All ladders in one run: what is whole is kept, what fails costs itself, and the page says so."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.cli import compare, report, run, runs, together
from common.cli.climbing import INTERRUPTED
from common.cli.planning import SECONDS_EACH
from common.cli.together import Together
from common.engine.errors import UserError
from common.engine.records import Records
from common.engine.standing import CUT, DONE, FAILED, FILE, WAITING, Standing, Standings
from common.engine.workload import Workload
from common.report.overview import OfAll, to_overview
from common.report.overview_words import WORDS
from ladders import LADDERS
from tests import packing, walking
from tests.conftest import PROJECT, width
from tests.test_page import EVIL, Page

CLIMB = """
import os, sys, ladders
from functools import partial
from common.cli import climbing, run
from common.report import overview
# pictures and the ladders' own pages take longer than these ladders
climbing.write_results = partial(climbing.write_results, without=("png", "html"))
overview.page.picture = lambda *seen: ""
ladders.LADDERS.clear()
for name in os.environ["CLIMBED"].split(","):
    ladders.LADDERS[name] = f"tests.{name}"
status = run.main(["--ladder", "all", *sys.argv[1:]])
assert "torch" not in sys.modules
sys.exit(status)
"""


@dataclass(frozen=True, kw_only=True)
class Refusing(Workload):
    def plan(self, options):
        raise UserError("--text here.txt: no such file")


@dataclass(frozen=True, kw_only=True)
class Breaking(Workload):
    def plan(self, options):
        raise RuntimeError("a wire is loose")


def spoilt(kind: type[Workload]):
    """The packing ladder with another workload."""
    own = packing.WORKLOAD
    workload = kind(address=own.address, metrics=own.metrics, recipe=own.recipe)
    return replace(packing.LADDER, workload=workload)


def elsewhere():
    """One that says nothing on this device."""
    purpose = replace(packing.LADDER.purpose, left_out=lambda device: "it rains")
    return replace(packing.LADDER, purpose=purpose)


@contextmanager
def in_place(ladders: dict[str, str]) -> Iterator[None]:
    """These in place of LADDERS' own, whose order comes back as well."""
    before = dict(LADDERS)
    LADDERS.clear()
    LADDERS.update(ladders)
    try:
        yield
    finally:
        LADDERS.clear()
        LADDERS.update(before)


@pytest.fixture(scope="module")
def few():
    """Ladders of seconds in place of ours: good ones, and what else may come of one."""
    made = {
        "walking": walking.LADDER,
        "refusing": spoilt(Refusing),
        "breaking": spoilt(Breaking),
        "elsewhere": elsewhere(),
        "aimless": replace(packing.LADDER, purpose=None),
        "packing": packing.LADDER,
    }
    places = {name: f"made_up_{name}" for name in made}
    places |= {name: f"tests.{name}" for name in ("walking", "packing")}
    with pytest.MonkeyPatch.context() as patch, in_place(places):
        for name, ladder in made.items():
            patch.setitem(sys.modules, f"made_up_{name}", SimpleNamespace(LADDER=ladder))
        yield


@pytest.fixture(scope="module")
def climbed(few, tmp_path_factory) -> tuple[Path, int]:
    out = tmp_path_factory.mktemp("all") / "run"
    return out, run.main(["--ladder", "all", "--out", str(out)])


def seen(out: Path, name: str = "report.html") -> Page:
    return Page((out / name).read_text())


def stands(out: Path) -> dict[str, str]:
    return {name: one.status for name, one in Standings.read(out).ladders.items()}


def pages(page: Page) -> list[str]:
    """The links out of a page."""
    found = [of["href"] for tag, of in page.tags if tag == "a" and not of["href"].startswith("#")]
    assert found
    return found


# -- a whole run --


def test_what_fails_or_cannot_run_costs_itself(climbed):
    out, status = climbed
    assert status == 1
    assert stands(out) == {
        "walking": "done",
        "refusing": "refused",
        "breaking": "failed",
        "elsewhere": "left out",
        "packing": "failed",  # of its rungs one is to fail
    }
    assert not (out / "aimless").exists()  # a ladder joins by saying what it is for
    for name in ("walking", "packing"):
        assert (out / name / "ladder.png").exists()
    text = seen(out).text
    for reason in (
        "cannot run here: --text here.txt: no such file",
        "failed: RuntimeError: a wire is loose",
        "left out: it rains",
        "failed: Loses; its report says why",
    ):
        assert reason in text


def test_the_page_recommends_what_was_told_with_figure_and_proof(climbed):
    out, _ = climbed
    page, table = seen(out), (out / "walking" / "ladder.csv").read_text().splitlines()
    row = dict(zip(table[0].split(","), table[2].split(","), strict=True))
    assert row["verdict"] == "fewer"
    times, low, high = (float(row[f"x_prev{end}"]) for end in ("", "_low", "_high"))
    assert f"Longer x{times:.2f} {low:.2f} to {high:.2f}" in page.text
    assert f"x{times:.2f} {low:.2f} to {high:.2f}, over baseline" in page.text
    for proof in ("Took effect length 0.2", "passed; worst error 0.0e+00", "Took effect level 9"):
        assert proof in page.text
    assert "Fast, Thorough" in page.text
    assert "Failed Loses (not equivalent: what is unpacked is not what was packed)" in page.text
    assert "no check in the records" in page.text  # walking has none


def test_links_lead_into_the_ladders_own_pages(climbed):
    out, _ = climbed
    links = pages(seen(out))
    assert {"walking/report.html", "packing/report.html"} <= {*links}
    for link in links:
        file, _, place = link.partition("#")
        assert (out / file).is_file()
        assert not place or place in [of.get("id") for _, of in seen(out, file).tags]
    assert "packing/report.html#run-rung-3" in links


def test_each_ladder_is_a_run_of_its_own(climbed, refusal, capsys, tmp_path):
    out, _ = climbed
    assert report.main([f"{out}/packing", "--out", str(tmp_path / "page.html")]) == 0
    assert compare.main([f"{out}/packing", f"{out}/packing"]) == 0
    said = refusal(compare.main, [str(out), str(out)])
    assert f"{out}: a run of all ladders; give one of them: {out}/walking, " in said


def test_it_speaks_japanese_and_english_again(climbed, capsys):
    out, _ = climbed
    before = {path: path.read_text() for path in out.rglob("report.html")}
    assert report.main([str(out), "--lang", "ja"]) == 0
    page = seen(out)
    assert ("html", {"lang": "ja"}) in page.tags
    for text in ("このマシンで有効にすべきもの", "歩行", "効いている証拠 length 0.2", "失敗 Loses"):
        assert text in page.text
    assert ("html", {"lang": "ja"}) in seen(out, "packing/report.html").tags
    assert report.main([str(out)]) == 0  # the same records make the same bytes
    assert {path: path.read_text() for path in out.rglob("report.html")} == before
    assert capsys.readouterr().out.splitlines() == [f"{out}/report.html"] * 2


def test_a_page_elsewhere_links_to_where_the_ladders_are(climbed, tmp_path):
    out, _ = climbed
    page = tmp_path / "deep" / "all.html"
    assert report.main([str(out), "--out", str(page)]) == 0
    for link in pages(Page(page.read_text())):
        assert (page.parent / link.partition("#")[0]).is_file()


def test_nothing_is_done_again_that_is_whole(climbed, capsys):
    out, _ = climbed
    lines = {p: p.read_text().splitlines() for p in out.rglob("records.jsonl")}
    assert run.main(["--ladder", "all", "--resume", "--json", "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "1 of 5 ladders are whole" in said
    assert "== walking" not in said
    assert "== packing: 3 of 3, about " in said  # a rung that failed is tried again
    told = json.loads(said.splitlines()[-1])
    assert told["html"] == str(out / "report.html") and not told["interrupted"]
    assert told["ladders"]["walking"]["status"] == "done"
    assert told["ladders"]["walking"]["ok"] == 4
    assert told["ladders"]["breaking"]["records"] is None
    assert told["ladders"]["packing"]["failed"] > 0
    for path, before in lines.items():
        assert path.read_text().splitlines()[: len(before)] == before
    assert width(said.partition("What to turn on here:")[2]) <= 80


# -- stops --


def start(out: Path, *options: str, ladders: str = "walking,packing") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CLIMB, *options, "--out", str(out)],
        cwd=PROJECT,
        env=os.environ | {"CLIMBED": ladders},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path: Path, count: int) -> None:
    until = time.monotonic() + 60
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_run_that_is_stopped_goes_on(tmp_path, how):
    out = tmp_path / "run"
    stopped = start(out)
    wait_for(out / "packing" / "records.jsonl", 2)
    stopped.send_signal(getattr(signal, how))
    said, errors = stopped.communicate(timeout=60)
    command = f"  python -m steps.run --ladder all --out {out} --resume"
    assert command in said.splitlines()[:2]
    if how != "SIGKILL":
        assert stopped.returncode == INTERRUPTED, errors
        assert said.splitlines()[-3:-1] == ["Not all is measured. To go on:", command]
        assert "interrupted; what was measured until then is shown" in seen(out).text
    assert stands(out) == {"walking": "done", "packing": "interrupted"}
    kept = {p: p.read_text().splitlines() for p in out.rglob("records.jsonl")}
    whole = start(out, "--resume")
    said, errors = whole.communicate(timeout=60)
    assert whole.returncode == 1, errors  # a rung of packing fails
    assert "1 of 2 ladders are whole" in said
    assert stands(out) == {"walking": "done", "packing": "failed"}
    walked, packed = (out / name / "records.jsonl" for name in ("walking", "packing"))
    assert walked.read_text().splitlines() == kept[walked]
    assert packed.read_text().splitlines()[: len(kept[packed]) - 1] == kept[packed][:-1]
    good = [(r["round"], r["rung"]) for r in Records(packed).read() if r["status"] == "ok"]
    assert sorted(good) == [(turn, rung) for turn in (1, 2) for rung in (0, 1, 3)]


def test_the_budget_is_shared_and_what_it_does_not_reach_is_said(tmp_path, monkeypatch):
    (tmp_path / "gib").write_text("100")
    monkeypatch.setenv("PACING", str(tmp_path))
    out, begin = tmp_path / "run", time.monotonic()
    done = start(out, "--budget", "24s", ladders="pacing,walking")
    said, errors = done.communicate(timeout=120)
    assert time.monotonic() - begin < 50
    assert done.returncode != INTERRUPTED, errors
    assert stands(out)["walking"] == DONE
    records = Records(out / "pacing" / "records.jsonl").read()
    assert records[0]["clock"]["budget_s"] == pytest.approx(0.9 * 12, abs=0.5)
    options = ("--budget", "6s", "--rounds", "50")
    short = start(tmp_path / "short", *options, ladders="pacing,walking")
    said, errors = short.communicate(timeout=120)
    assert short.returncode == 0, errors
    assert stands(tmp_path / "short")["pacing"] == CUT
    assert "Not all is measured. To go on:" in said
    assert "stopped when the budget was spent" in seen(tmp_path / "short").text


# -- which folder --


def made_up(folder: Path, facts: dict, **ladders: Standing) -> Standings:
    folder.mkdir(parents=True, exist_ok=True)
    found = Standings(folder=folder, facts=facts)
    for name, standing in ladders.items():
        found.put(name, standing)
    return found


def test_the_latest_run_of_the_same_kind_goes_on(few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = SimpleNamespace(out=None, resume=True)
    fresh = together.begin(own, {"a": 1}, "Some CPU").folder
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{6}-all-some-cpu", fresh.name)
    made_up(fresh, {"a": 1}, walking=Standing(status=DONE))
    made_up(runs.RUNS / "2999-01-01-000000-all-b", {"a": 2}, walking=Standing())
    (runs.RUNS / "2999-01-01-000001-all-c").mkdir()
    assert together.begin(own, {"a": 1}, "Some CPU").folder == fresh
    assert together.begin(own, {"a": 3}, "Some CPU").folder not in (fresh,)
    own.resume = False
    assert together.begin(own, {"a": 1}, "Some CPU").ladders == {}
    assert runs.find_run(f"{fresh.name}/walking") == str(runs.RUNS / fresh.name / "walking")
    assert runs.find_run("last/walking").endswith("2999-01-01-000001-all-c/walking")


def test_a_page_does_not_mix_two_runs(few, tmp_path):
    made_up(tmp_path, {"a": 1}, walking=Standing(status=DONE))
    for resume, facts, reason in (
        (False, {"a": 1}, "(--resume goes on with it); give another one"),
        (True, {"a": 2}, "(of other options, versions, or code); give another one"),
    ):
        with pytest.raises(UserError) as told:
            together.begin(SimpleNamespace(out=tmp_path, resume=resume), facts, "")
        assert reason in str(told.value)


# -- what is refused --


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only", "0"), "--only: not with --ladder all, which climbs every ladder whole"),
        (("--upto", "1"), "--upto: not with --ladder all"),
        (("--attribute",), "--attribute: not with --ladder all"),
        (("--without", "1"), "--without: not with --ladder all"),
        (("--resolution", "2%"), "--resolution: not with --ladder all"),
        (("--colour",), "unrecognized arguments: --colour: --ladder all gives it to every ladder"),
        (("--budget", "soon"), "--budget: soon: must be a time above 0"),
        (("--rounds", "0"), "--rounds: 0: must be a whole number from 1 on"),
        (("--out", ""), "--out: the name of a folder is needed"),
    ],
)
def test_a_mistake_is_a_sentence(few, refusal, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(run.main, ["--ladder", "all", *options])
    assert not list(tmp_path.iterdir())


def test_what_no_ladder_can_do_is_said_before_a_folder_is_made(few, refusal, tmp_path):
    with in_place({"refusing": "made_up_refusing"}):
        said = refusal(run.main, ["--ladder", "all", "--out", str(tmp_path / "run")])
    assert said == "error: --text here.txt: no such file\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"facts": {}, "ladders": {"walking": {"status": "well"}}}',
        '{"facts": {}, "ladders": {"walking": {"status": "done", "seconds": -1}}}',
        '{"facts": {}, "ladders": {"../up": {"status": "done"}}}',
        '{"facts": {}, "ladders": {"aimless": {"status": "done"}}}',
    ],
)
def test_a_damaged_file_is_a_sentence(few, refusal, tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert str(tmp_path / FILE) in refusal(report.main, [str(tmp_path)])


def test_another_ladders_records_are_a_sentence(climbed, refusal, tmp_path):
    out, _ = climbed
    made_up(tmp_path, {}, walking=Standing(status=DONE))
    (tmp_path / "walking").mkdir()
    lines = (out / "packing" / "records.jsonl").read_bytes()
    (tmp_path / "walking" / "records.jsonl").write_bytes(lines)
    assert "records of the ladder tests.packing, not walking" in refusal(
        report.main, [str(tmp_path)]
    )


# -- the page, the time --


def test_both_languages_have_the_same_words():
    english, japanese = WORDS["en"], WORDS["ja"]
    assert english.keys() == japanese.keys()
    for name, text in english.items():
        places = re.findall(r"{(\w+)", text)
        assert sorted(places) == sorted(re.findall(r"{(\w+)", japanese[name])), name


@pytest.mark.parametrize("lang", WORDS)
def test_ladders_without_records_are_not_measured(lang):
    bad = Standing(status=FAILED, reason=EVIL)
    ladders = [
        OfAll(name="walking", ladder=walking.LADDER, standing=Standing()),
        OfAll(name="packing", ladder=packing.LADDER, standing=bad),
    ]
    page = Page(to_overview(ladders, lang))
    words = WORDS[lang]
    assert f"{walking.LADDER.purpose.name[lang]} {words['not_climbed']}" in page.text
    assert words["not_begun"] in page.text
    assert EVIL in "".join(page.texts)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    with pytest.raises(UserError, match="--lang fr: must be one of en, ja"):
        to_overview(ladders, "fr")


def test_the_time_left_follows_what_rungs_took(few, tmp_path):
    asked = {name: (one, None) for name, one in {"w": walking.LADDER, "p": packing.LADDER}.items()}
    one = Together(asked, Standings(folder=tmp_path, facts={}), None, {})
    assert one.expected_s(["w", "p"]) == SECONDS_EACH * 6
    one.standings.ladders["w"] = Standing(status=DONE, seconds=10.0)
    assert one.ahead == ["p"]
    assert one.expected_s(["p"]) == pytest.approx(4 * 5.0)
    short = Together(asked, one.standings, 3.0, {})
    assert short.expected_s(["p"]) == pytest.approx(3.0, abs=0.5)  # no more than there is
    assert {"w", "p"} == {*short.standings.ladders}
    assert short.stands("p").status == WAITING


def test_a_ladder_that_is_judged_takes_two_rounds_where_it_would_be_content_with_one(few):
    kinds = [("walking", 1, 2), ("walking", 3, 3)]
    for name, own, taken in kinds:
        plan, _ = together.make_plan(*together.ask_all([])[name])
        assert together.enough(replace(plan, turns=None, rounds=own)) == taken
    counted = replace(plan.ladder.workload.headline, noise=together.EXACT)
    workload = replace(plan.ladder.workload, metrics=(counted,))
    exact = replace(plan, ladder=replace(plan.ladder, workload=workload), turns=None, rounds=1)
    assert together.enough(exact) == 1
