"""Tokens timed after prompts of several lengths: what is measured, and what is shown of it."""

import json
from dataclasses import asdict, replace

import pytest

from common.cli import run as command
from common.engine.contract import Disturbed
from common.engine.settle import Trials
from common.report.canvas import plt
from common.workloads.generate import lengths
from common.workloads.generate.plot_lengths import plot, styles
from common.workloads.generate.session import STEPS_AFTER, GenerateSession
from common.workloads.generate.settings import Settings
from common.workloads.generate.workload import GENERATE
from tests.conftest import climb, fake_record, width
from tests.test_inference import NAIVE, SETTINGS, TINY, recipe_at, taken

NAMES = (
    "all tokens again",
    "KV cache",
    "Preallocated cache",
    "bfloat16",
    "Fused attention",
    "int8",
)


def made_up(seconds: dict[int, dict[int, float]], turn: int = 1, **changes) -> list[dict]:
    """Records of rungs: seconds of 10 tokens by the prompt's length, the run's own one first."""
    found = []
    for rung, by_length in seconds.items():
        (own, first), *others = by_length.items()
        measured = {"step_s": [first], "step_s_after": {str(n): [s] * 3 for n, s in others}}
        shape = {"shape": asdict(TINY), "prompt_tokens": own, "new_tokens": 10, "warmup": 2}
        record = fake_record(rung, turn, 1.0, name=NAMES[rung], baseline={"requests": 1})
        record["settings"], record["ladder"] = shape, "ladders.inference"
        record["measurement"] |= measured | {"weights": {"source": "made up"}}
        found.append(record | changes)
    return found


TWO = made_up({0: {256: 5.0, 64: 1.0, 768: 20.0}, 1: {256: 0.2, 64: 0.1, 768: 0.4}})


# -- measured --


def test_steps_are_timed_after_each_prompt():
    found = taken(recipe_at(2), replace(SETTINGS, lengths=(3, 9, 27)))
    assert [*found["step_s_after"]] == ["3", "9", "27"]
    for step_s in found["step_s_after"].values():
        assert len(step_s) >= STEPS_AFTER
        assert min(step_s) > 0
    assert taken(recipe_at(2))["step_s_after"] == {}


def test_a_longer_prompt_is_read_and_its_tokens_are_audited():
    sessions = []

    def remember(session):
        sessions.append(session)
        return GenerateSession.prefill(session)

    taken(recipe_at(2), replace(SETTINGS, lengths=(3, 27)), prefill=remember)
    assert {s.prompt.shape[1]: s.run.cache.capacity for s in sessions} == {3: 8, 9: 14, 27: 32}
    for session in sessions:
        assert {*session.lengths} == {session.prompt.shape[1] + 5}

    def half(session):
        GenerateSession.step(session)
        if session.settings.prompt_tokens == 27:
            session.lengths[-1] -= 1

    with pytest.raises(Disturbed, match=r"steps ended at \[31\] tokens instead of 32"):
        taken(recipe_at(2), replace(SETTINGS, lengths=(3, 27)), step=half)


def test_computing_all_again_takes_longer_after_a_longer_prompt_and_a_cache_hardly():
    """Of 2 and of 500 tokens; the least time of steps is compared: noise only adds to it."""
    shape = replace(TINY, layers=4, emb_dim=128, context=512)
    settings = replace(SETTINGS, shape=shape, new_tokens=2, lengths=(2, 500))
    naive, cached = (
        {int(tokens): min(step_s) for tokens, step_s in taken(r, settings)["step_s_after"].items()}
        for r in (NAIVE, recipe_at(2))
    )
    assert naive[500] / naive[2] > 3 * cached[500] / cached[2]


def test_tries_of_candidates_leave_the_other_prompts_out():
    jobs, settings = [], replace(SETTINGS, lengths=(3, 9))
    trials = Trials(workload=GENERATE, settings=settings, run=jobs.append)
    trials.attempt(NAIVE, "it")
    assert jobs[0].settings == replace(SETTINGS, lengths=(), steps=settings.steps, warmup=2)


def test_settings_come_back_from_a_file_as_they_were():
    settings = replace(SETTINGS, lengths=(3, 9))
    plain = settings.to_json()
    assert json.loads(json.dumps(plain)) == plain  # --resume compares them
    assert Settings.from_json(plain) == settings
    old = {name: value for name, value in plain.items() if name not in ("lengths", "uptrain_steps")}
    assert Settings.from_json(old) == SETTINGS


# -- shown --


def test_curves_are_milliseconds_of_a_token_over_rounds():
    records = [
        *TWO,
        *made_up({1: {256: 0.4, 64: 0.3, 768: 0.6}}, turn=2),
        *made_up({1: {256: 9.0, 64: 9.0}}, turn=3, series="twin"),
        *made_up({2: {256: 9.0, 64: 9.0}}, status="failed"),
    ]
    naive, cached = lengths.curves(records)
    assert naive.ms == {64: 100.0, 256: 500.0, 768: 2000.0}
    assert cached.ms == pytest.approx({64: 20.0, 256: 30.0, 768: 50.0})
    assert cached.gains(naive) == pytest.approx({64: 5.0, 256: 500 / 30, 768: 40.0})
    assert lengths.curves(made_up({0: {256: 1.0}})) == []


def test_the_result_is_the_fastest_rungs_gain_at_both_ends():
    said = "KV cache: 10.0 times as fast as all tokens again after 64 tokens, 50.0 times after 768"
    assert lengths.result(lengths.curves(TWO)) == said
    assert lengths.result(lengths.curves(TWO[:1])) == ""
    assert lengths.result(lengths.curves(TWO[1:])) == ""
    own = made_up({0: {256: 5.0}, 1: {256: 5.0, 64: 1.0}})
    own[0]["measurement"]["step_s_after"] = {"256": [5.0]}  # the prompt's own length alone
    assert lengths.result(lengths.curves(own)) == ""


def test_tables_have_a_column_for_each_length():
    text = lengths.to_text(TWO).splitlines()
    assert text[2].split()[-3:] == ["10.00", "20.00", "40.00"]
    assert text[0].split()[-3:] == ["64", "256", "768"]
    assert text[1].split()[-3:] == ["100", "500", "2,000"]
    page = lengths.to_markdown(TWO)
    assert "| 1 | KV cache | 10.00 (x10.0) | 20.00 (x25.0) | 40.00 (x50.0) |" in page
    many = made_up({n: {2**k: 99.5 * k for k in range(14, 21)} for n in range(6)})
    assert width(lengths.to_text(many)) <= 80
    assert lengths.to_text(made_up({0: {256: 1.0}})) == ""
    assert GENERATE.extra_results(made_up({0: {256: 1.0}})) == {}


def test_the_picture_names_a_few_curves(tmp_path):
    before = plt.get_fignums()
    found = lengths.curves(made_up({n: {64: 1.0, 256: 2.0 / (1 + n)} for n in range(6)}))
    looks = {one.rung: look for one, look in styles(found)}
    assert [rung for rung, look in looks.items() if "label" in look] == [0, 1, 5]
    assert len({look["color"] for look in looks.values()}) == 4  # one of all the others
    few = [look for _, look in styles(found[:5])]
    assert len({look["color"] for look in few}) == 5
    for name, records in (("two", TWO), ("cached", TWO[1:])):
        plot(records, tmp_path / f"{name}.png")
        assert plt.imread(tmp_path / f"{name}.png").shape[1] == 1660
    assert plt.get_fignums() == before


# -- all of it --


def test_a_run_leaves_the_table_and_the_picture(tmp_path):
    few = ("--only", "0,2", "--rounds", "1", "--steps", "2", "--base-steps", "0")
    start = ("--ladder", "inference", "--preset", "tiny", *few)
    done = climb(*start, "--lengths", "8,40", "--json", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"lengths", "lengths_md"} <= json.loads(done.stdout.splitlines()[-1]).keys()
    assert "each token, ms, after" in done.stdout
    assert width(done.stdout) <= 80
    assert (tmp_path / "lengths.png").stat().st_size > 1000
    page = (tmp_path / "lengths.md").read_text()
    assert "| 8 | 32 | 40 |" in page
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [[*r["measurement"]["step_s_after"]] for r in records] == [["8", "40"]] * 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("8,49", "--lengths 49: with 16 new tokens longer than the context of 64; at most 48"),
        ("0", "must be a whole number from 1 on"),
        ("8,,9", "must be a whole number from 1 on"),
        ("1,2,3,4,5,6,7", "at most 6 lengths"),
    ],
)
def test_a_mistake_is_a_sentence(refusal, tmp_path, given, said):
    start = ["--ladder", "inference", "--preset", "tiny", "--out", str(tmp_path)]
    assert said in refusal(command.main, [*start, "--lengths", given])
