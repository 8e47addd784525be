"""report.html: the figures of the CSV, nothing from outside, and whatever came of a run said."""

import csv
import io
import json
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from common.cli import report
from common.engine.contract import Numerics
from common.engine.errors import UserError
from common.engine.ladder import Ladder
from common.engine.records import Records
from common.report import page, page_plots
from common.report.files import write_results
from common.report.frame import to_csv, to_frame
from common.report.page import to_page
from common.report.page_lesson import changes, gate, lesson
from common.report.page_plots import MARKS, duration, inline, step_plot
from common.report.page_words import EN, JA, WORDS
from ladders import LADDERS, load, of_records
from steps import LADDER
from tests.conftest import PROJECT, fake_ladder, fake_record, run, write_records
from tests.test_report import PACKING, packed

MIB = 2**20
STORED = sorted(path.parent for path in (PROJECT / "results").glob("**/records.jsonl"))
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"


class Page(HTMLParser):
    """What a browser would make of it: tags with their attributes, and the text of each tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.texts, self.open, self.rows = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        of = dict(attributes)
        self.tags.append((tag, of))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append((of.get("data-rung"), []))
        if tag == "data":
            self.rows[-1][1].append(of["value"])

    def handle_endtag(self, tag) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data) -> None:
        if not {"style", "script"} & {*self.open}:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def plain(monkeypatch):
    """No pictures: each takes a second, and most tests look at something else."""
    monkeypatch.setattr(page, "drawn", lambda write, name: page_plots.Markup("<svg></svg>"))


def of_steps(rates: dict[int, list[float]], **more) -> list[dict]:
    """Records with the names that the ladder's rungs have."""
    records = fake_ladder(rates, **more)
    return [record | {"name": LADDER.title(record["rung"])} for record in records]


STEADY = of_steps({0: [100, 101, 100], 1: [100, 101, 101], 2: [200, 203, 201], 3: [210, 212, 211]})


def seen(records: list[dict], lang: str = "en", ladder: Ladder = LADDER) -> Page:
    return Page(to_page([records], ladder, lang))


# -- figures --


@pytest.mark.parametrize("folder", STORED, ids=lambda path: "-".join(path.parts[-2:]))
def test_figures_are_those_of_the_csv(plain, folder):
    records = Records(folder / "records.jsonl").read()
    ladder = of_records(records)
    workload, found = ladder.workload, seen(records, ladder=ladder)
    table = csv.DictReader(io.StringIO(to_csv(to_frame(records, workload))))
    columns = [workload.headline.name, "x_prev", "x_base"]
    columns += [metric.name for metric in workload.shown("brief")]
    shown = iter(found.rows[1:])  # below the head, in the order of the rungs
    for row, (number, values) in zip(table, shown, strict=False):
        assert number == row["rung"].replace("-1", "")
        assert values == [row[name] for name in columns if row[name] and row["status"] == "ok"]


def test_all_other_metrics_have_a_table_of_their_own(plain):
    found = seen(STEADY)
    frame = to_frame(STEADY, LADDER.workload)
    mean = LADDER.workload.shown("page")[0]
    rows = [values for number, values in found.rows if number == "2"]
    assert f"{frame.set_index('rung').loc[2, mean.name]:.6g}" in rows[1]


# -- the page stands alone --


def test_the_same_records_make_the_same_bytes_also_in_another_process(tmp_path):
    path = write_records(tmp_path / "records.jsonl", STEADY)
    done = run("-m", "steps.report", str(tmp_path), PYTHONHASHSEED="1")
    assert done.returncode == 0, done.stderr
    made = (tmp_path / "report.html").read_bytes()
    assert done.stdout.split() == [str(tmp_path / "report.html")]
    assert made == to_page([Records(path).read()], LADDER).encode()


def test_nothing_is_fetched_and_nothing_runs():
    found = to_page([STEADY], LADDER)
    assert found.startswith("<!DOCTYPE html>")
    for tag, attributes in Page(found).tags:
        assert tag not in ("script", "iframe", "object", "embed", "img", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src", "xlink:href", "action", "data", "poster"):
                assert value.startswith("#") or value == "data:,"
    assert "http:" not in found
    assert "https:" not in found
    assert "@import" not in found
    assert "url(" not in found.replace("url(#", "")
    assert str(PROJECT) not in found


def test_links_lead_to_a_place_in_the_page(plain):
    found = seen(STEADY)
    places = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    links = {of["href"] for tag, of in found.tags if tag == "a"}
    assert {f"#{place}" for place in places} >= links
    assert len(places) == len({*places})


def test_a_page_is_small_also_of_a_long_run():
    long = [record | {"log": "x" * 10**6, "note": "y" * 10**6} for record in STEADY]
    for record in long:
        record["measurement"] = record["measurement"] | {"step_s": [0.1, 0.2] * 5000}
    assert len(to_page([long], LADDER).encode()) < MIB
    folder = PROJECT / "results" / "nvidia-h200"
    assert len(to_page([Records(folder / "records.jsonl").read()], LADDER).encode()) < MIB


def spoilt(record: dict) -> dict:
    measured = record["measurement"] | {"in_effect": {str(record["rung"]): EVIL}}
    texts = ("name", "reason", "note", "command", "log", "commit", "preset")
    told = dict.fromkeys(texts, EVIL)
    recipe = record["recipe"] | {EVIL: EVIL}
    machine = record["machine"] | {"device": EVIL, EVIL: EVIL}
    more = {"recipe": recipe, "machine": machine, "measurement": measured}
    return record | told | more | {"equivalence": {"error": 1.0, "limit": 2.0, "where": EVIL}}


@pytest.mark.parametrize("runs", [1, 2])
def test_what_records_hold_is_text(runs):
    records = [spoilt(record) for record in STEADY]
    records[-1] |= {"status": "failed"}
    found = Page(to_page([records] * runs, LADDER))
    assert not {"script", "img"} & {tag for tag, _ in found.tags}
    assert not [name for _, of in found.tags for name in of if name.startswith("on")]
    assert EVIL in found.text
    assert "<svg" in to_page([records] * runs, LADDER)  # drawn, with that name in it


def test_a_letter_that_the_font_lacks_and_one_that_is_none():
    found = to_page([[record | {"name": "段 $x"} for record in STEADY]], LADDER)
    assert "could not be drawn" not in found
    assert "段 $x" in found
    broken = to_page([[record | {"name": "\ud800"} for record in STEADY]], LADDER)
    assert "could not be drawn" in broken  # by matplotlib, with such a name
    assert broken.encode().count(b"?</h3>") == 4


# -- what came of the run --


def refuse(records: list[dict], number: int, status: str, reason: str) -> list[dict]:
    told = {"status": status, "reason": reason, "recipe": None, "log": "the last words"}
    return [r | told if r["rung"] == number else r for r in records]


def test_a_failed_rung_is_told_at_the_top_and_in_its_place(plain):
    found = seen(refuse(STEADY, 2, "failed", "no card"))
    assert "2 TF32 tensor cores failed" in found.text
    assert found.text.count("failed: no card") == 3  # bar, table, and section
    assert "the last words" in found.text
    assert "would change matmul_precision" in found.text


def test_a_rung_that_does_not_apply_is_no_alarm(plain):
    found = seen(refuse(STEADY, 2, "skipped", "no such card"))
    assert "does not apply: no such card" in found.text
    assert "TF32 tensor cores failed" not in found.text


def test_no_rung_was_measured(plain):
    records = STEADY
    for number in range(4):
        records = refuse(records, number, "oom", "out of memory")
    assert "No rung over the baseline was measured" in seen(records).text
    assert "ベースラインより上の段は計測できませんでした" in seen(records, "ja").text


def test_one_round_judges_nothing(plain):
    found = seen(of_steps({0: [100], 1: [200]}))
    assert "Each rung was measured once, so no gain is judged" in found.text
    assert "2.0 times the baseline's tok/s, not judged" in found.text


def test_a_baseline_alone_has_a_page(plain):
    found = seen(of_steps({0: [100, 100]}))
    assert "No rung over the baseline was measured" in found.text
    assert "baseline 100 tok/s" in found.text


def test_an_interrupted_run_says_what_it_lacks(plain):
    found = seen([*STEADY, *of_steps({4: [220]})])
    assert "Fewer rounds than the others have: 4 Pinned memory" in found.text
    assert "Not in this run: 5 bfloat16, 6 Native" in found.text


def test_a_twin_that_differs_voids_the_run(plain):
    twins = [r | {"series": "twin"} for r in of_steps({2: [100, 101, 100]})]
    assert "This run judges nothing" in seen([*STEADY, *twins]).text


def test_a_rung_that_the_ladder_no_longer_has_has_no_lesson(plain):
    found = seen([r | {"name": "Forgotten"} if r["rung"] == 3 else r for r in STEADY])
    assert "no lesson for it" in found.text
    moved = [r | {"name": "bfloat16"} if r["rung"] == 3 else r for r in STEADY]
    assert "parameters, activations, gradients, and the optimizer's moments" in seen(moved).text


def test_a_picture_that_cannot_be_drawn_costs_itself(monkeypatch):
    def refuses(*arguments):
        raise RuntimeError("no such font")

    monkeypatch.setattr("common.report.plot.ladder_figure", refuses)
    found = seen(STEADY)
    assert "The picture could not be drawn (RuntimeError: no such font)." in found.text
    assert "TF32 tensor cores" in found.text


def test_a_picture_that_is_too_large_for_the_page_is_left_out(monkeypatch):
    monkeypatch.setattr(page, "ROOM", 1000)
    found = seen(STEADY)
    assert "losses.png is too large for this page." in found.text
    assert "tok/s" in found.text


def test_three_gains_are_shown_where_they_were_measured():
    alone = [r | {"series": "alone", "applied": [2]} for r in of_steps({2: [201, 202, 200]})]
    found = seen([*STEADY, *alone])
    assert "Three gains for each rung" in found.text
    assert "Three gains" not in seen(STEADY).text


# -- of each rung --


@pytest.mark.parametrize("name", LADDERS)
def test_a_lesson_loses_no_word(name):
    for rung in load(name).rungs:
        parts = lesson(rung.module.__doc__)
        assert [label for label, _ in parts][0] == "Changes"
        assert {"Cost", "When not", "Source"} <= {label for label, _ in parts}
        told = " ".join(f"{label}: {text}" for label, text in parts).split()
        assert told == rung.module.__doc__.split("\n", 1)[1].split()


def test_a_docstring_without_labels_is_a_lesson_too():
    assert lesson("1. Title.") == []
    assert lesson("1. Title.\n\nOne line\nand another.") == [("", "One line and another.")]


def test_a_change_is_what_a_recipe_lost_and_won():
    before = {"a": 1, "b": ["x", "y"], "c": None, "gone": 2}
    after = {"a": 1, "b": ["x", "z"], "c": "new", "more": False}
    assert changes(before, after) == [
        {"field": "b", "lost": ["y"], "won": ["z"]},
        {"field": "c", "lost": ["None"], "won": ["new"]},
        {"field": "gone", "lost": ["2"], "won": []},
        {"field": "more", "lost": [], "won": ["False"]},
    ]


def test_a_rung_is_held_against_what_it_adds_to(plain):
    records = [
        r | {"recipe": r["recipe"] | {"dtype": f"of rung {r['rung']}"}}
        for r in STEADY
        if r["rung"] != 2
    ]
    found = seen(records).text
    assert "against 1 Causal mask on the fly dtype of rung 1 of rung 3" in found
    assert "steps/step03_fused_adamw.py" in found
    assert "CHANGES = (" in found  # the whole file


def test_a_gate_is_told_in_the_words_of_its_record():
    text = "{error} of {limit}"
    assert gate({"error": 1e-7, "limit": 2e-5, "where": "x"}, text) == "1.0e-07 of 2e-05; x"
    own = {"mean_error": 1.0, "worst_part_error": 2e-3, "worst_part": "y", "limit": 0.1}
    assert gate(own | {"formats": ["bf16"]}, text) == "2.0e-03 of 1e-01; y; bf16"
    assert gate({}, text) == gate({"error": 1.0}, text) == ""


def test_where_the_time_went_stands_before_and_after(plain):
    def profiled(record: dict, seconds: float) -> dict:
        parts = {"attention": seconds, "optimizer": 0.01}
        profile = {"steps": 2, "window_s": 2 * seconds, "parts": parts, "top": []}
        return record | {"measurement": record["measurement"] | {"profile": profile}}

    first = [profiled(r, 0.32 / (1 + r["rung"])) if r["round"] == 1 else r for r in STEADY]
    found = seen(first).text
    assert "Where the time goes, ms per 1000 tokens before after attention 10,000 5,000" in found
    assert "Where the time goes" not in seen(STEADY).text


def test_step_times_are_drawn_few_enough():
    short, long = step_plot([[0.1, 0.2], [0.3]]), step_plot([[0.1] * 10**5] * 3)
    assert short.count("M") == 3 + 1  # and the median
    assert MARKS // 2 < long.count("M") <= MARKS + 4
    assert [duration(s) for s in (12.34, 1.0, 0.5, 0.01234, 2e-5)] == [
        *("12.34 s", "1.000 s", "500.0 ms", "12.34 ms", "20.00 µs"),
    ]


def test_an_svg_is_made_part_of_a_page():
    svg = (
        '<?xml version="1.0"?><!DOCTYPE svg "http://a"><svg width="9pt" height="8pt" '
        'viewBox="0 0 9 8" xmlns="http://b" xmlns:xlink="http://c"><metadata>http://d</metadata>'
        '<!-- <b> --><style>*{}</style><path id="x" style="fill: #0072B2"/>'
        '<use xlink:href="#x" clip-path="url(#x)" style="fill: #000000"/></svg>'
    )
    assert inline(svg, "a") == (
        '<svg class="drawn" role="img" viewBox="0 0 9 8"><path id="a-x" style="fill: var(--blue)"/>'
        '<use href="#a-x" clip-path="url(#a-x)" style="fill: currentColor"/></svg>'
    )


# -- any ladder, two languages, two runs --


def test_another_ladder_follows_from_its_metrics():
    modules = [
        SimpleNamespace(
            __doc__=f"{n}. rung {n}.\n\nWhy: {n} times.",
            CHANGES=("level",),
            NUMERICS=Numerics.EXACT,
            applies=lambda device, recipe: None,
            in_effect=lambda run: "",
            apply=lambda recipe: recipe,
        )
        for n in range(1, 5)
    ]
    ladder = Ladder(name="tests.page", workload=PACKING, modules=tuple(modules))
    sizes = enumerate((1000, 999, 999, 1200, 300))
    found = seen(
        [packed(rung, turn, size) for rung, size in sizes for turn in (1, 2)], "en", ladder
    )
    assert "The baseline's file, bytes, divided by 3.3" in found.text
    assert "file, bytes" in found.text
    assert "Why 4 times." in found.text
    assert "x4.00" in found.text
    assert not {"tok/s", "GiB", "loss"} & {*found.text.split()}


def test_both_languages_have_the_same_words():
    assert EN.keys() == JA.keys()
    for name, text in EN.items():
        places = {part.partition("}")[0] for part in text.split("{")[1:]}
        assert places == {part.partition("}")[0] for part in JA[name].split("{")[1:]}, name


def test_headings_are_japanese_and_lessons_stay(plain):
    english, found = seen(STEADY), seen(STEADY, "ja")
    assert ("html", {"lang": "ja"}) in found.tags
    for text in (
        "計測値",
        "レシピの変更点",
        "代償",
        "効いている証拠",
        "ベースラインの 2.1 倍の tok/s",
    ):
        assert text in found.text
    for name in ("table", "recipe", "took_effect", "how", "step_times"):
        assert EN[name] in english.text
        assert EN[name] not in found.text
    assert "one kernel does all of AdamW's arithmetic" in found.text
    assert [values for _, values in found.rows] == [values for _, values in english.rows]
    with pytest.raises(UserError, match="--lang fr: must be one of en, ja"):
        seen(STEADY, "fr")


@pytest.mark.parametrize("lang", WORDS)
def test_two_machines_side_by_side(plain, lang):
    machine = {"device_type": "cpu", "device": "Another CPU", "threads": 2}
    rates = {0: [100, 101, 100], 1: [150, 151, 150], 2: [301, 300, 299]}
    other = of_steps(rates, machine=machine)
    found = Page(to_page([STEADY, other], LADDER, lang))
    assert "machine.device Made-up CPU Another CPU" in found.text
    values = dict(found.rows)["2"]
    columns = ["tok_per_s", "x_prev"]
    frames = [to_frame(run, LADDER.workload).set_index("rung") for run in (STEADY, other)]
    of_both = [f"{frame.loc[2, name]:.6g}" for frame in frames for name in columns]
    assert values[:4] == of_both
    assert values[4] == f"{300 / 201:.6g}"
    assert f"x1.05 {WORDS[lang]['not_measured']} – –" in found.text  # of rung 3
    assert len([tag for tag, _ in found.tags if tag == "svg"]) == 2


def test_runs_that_are_too_unlike_still_have_their_gains(plain):
    other = json.loads(json.dumps(STEADY))
    for record in other:
        record["settings"]["shape"]["layers"] = 99
    found = Page(to_page([STEADY, other], LADDER))
    assert "No ratios: these runs cannot be compared" in found.text
    assert "different shapes: layers 2 and 99" in found.text
    assert len(dict(found.rows)["2"]) == 4


# -- the command --


def test_a_page_is_made_again_where_the_records_are(plain, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_records(tmp_path / "a" / "records.jsonl", STEADY).parent
    assert report.main([str(folder)]) == 0
    assert report.main([str(folder / "records.jsonl"), "--lang", "ja", "--out", "b.html"]) == 0
    assert report.main([str(folder), str(folder)]) == 0
    written = ["a/records.jsonl", "a/report.html", "b.html", "comparison.html"]
    assert sorted(map(str, (p.relative_to(tmp_path) for p in tmp_path.rglob("*.*")))) == written
    assert capsys.readouterr().out.splitlines()[1:] == ["b.html", "comparison.html"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no records there"),
        ("rung,name\n0,baseline\n", "holds no records"),
        (
            json.dumps(fake_record(0, 1, 1.0, ladder="memory")) + "\n",
            "records of the ladder memory",
        ),
        (json.dumps({k: v for k, v in STEADY[0].items() if k != "name"}) + "\n", "another kind"),
        (json.dumps(STEADY[0] | {"machine": 7}) + "\n", "records of another kind"),
    ],
)
def test_no_run_is_a_sentence(tmp_path, refusal, content, message):
    if content:
        (tmp_path / "records.jsonl").write_text(content)
    assert message in refusal(report.main, [str(tmp_path)])
    assert not (tmp_path / "report.html").exists()


def test_what_the_command_cannot_do_is_a_sentence(tmp_path, refusal):
    a = str(write_records(tmp_path / "a" / "records.jsonl", STEADY))
    packing = [fake_record(0, 1, 1.0, ladder="ladders.beyond")]
    b = str(write_records(tmp_path / "b" / "records.jsonl", packing))
    assert "different ladders: steps and ladders.beyond" in refusal(report.main, [a, b])
    assert "--lang" in refusal(report.main, [a, "--lang", "fr"])
    assert "unrecognized" in refusal(report.main, [a, a, a])
    assert "no records there" in refusal(report.main, [""])
    assert "not a file" in refusal(report.main, [a, "--out", str(tmp_path)])


def test_every_run_leaves_its_page(tmp_path):
    done = write_results(STEADY, tmp_path, LADDER)
    assert done["html"] == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == to_page([STEADY], LADDER)
