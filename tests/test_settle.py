"""What a rung leaves open is settled by what passes; who is out stays in the record, with why."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.accelerator.device import describe
from common.cli.display import Display
from common.engine import children, process
from common.engine.child import guarded
from common.engine.climb import Climb
from common.engine.contract import DoesNotApply
from common.engine.device import DeviceFacts
from common.engine.ladder import Ladder
from common.engine.plan import Plan
from common.engine.records import Records
from common.engine.workload import Launch
from common.gpt.shape import Shape
from common.report.files import write_results
from common.workloads.train.presets import PRESETS, baseline
from common.workloads.train.settings import Settings
from common.workloads.train.workload import TRAINING
from ladders.beyond import LADDER
from tests import faulty, refusing
from tests.conftest import short_climb

STUB = (sys.executable, "-S", str(Path(__file__).with_name("stub_child.py")))
CPU = replace(describe("cpu"), native_bf16=True)  # all rungs are asked, on every CPU
GPU = DeviceFacts(type="cuda", name="Card", vendor="nvidia", memory_gib=80, native_bf16=True,
                  capability=(9, 0))  # fmt: skip
CHUNKED = "ladders.beyond.step03_chunked_head.ChunkedLoss"
AT_256 = {"objective": CHUNKED, "loss_rows": 256}  # the stub's fastest
TRACE = "Traceback\n" + "x" * 3000 + "\nRuntimeError: it broke"


def failed(reason: str, **rule) -> dict:
    return {"answer": {"status": "failed", "reason": reason}} | rule


def refused(refuser: int, **rule) -> dict:
    return {"answer": {"status": "skipped", "reason": "too wide", "refuser": refuser}} | rule


class Run:
    """Climbs with children that answer at once, by rules; keeps what they were asked."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.jobs = folder, []
        self.patch = patch

    def __call__(
        self, numbers, *rules, ladder=LADDER, device=CPU, resume=False, spoil=lambda job, out: None
    ) -> list[dict]:
        """The records. `spoil` may change a child's outcome."""
        stub = Launch(command=(*STUB, json.dumps(rules)))

        def child(job, timeout, *more):
            self.jobs.append(job.to_json())
            outcome = process.run_job(job, timeout, *more, launch=stub)
            spoil(job, outcome)
            return outcome

        self.patch.setattr(children, "run_job", child)
        plain = baseline("tiny")
        plan = Plan(
            ladder=ladder,
            baseline=ladder.foot(plain, device),
            plain=plain,
            under=tuple(ladder.under(plain, device)),
            device=device,
            settings=Settings(shape=PRESETS["tiny"].shape, device="cpu", steps=2, warmup=2),
            numbers=numbers,
            preset="tiny",
            timeout=30.0,
        )
        with Display(plan) as display:
            display.console.quiet = True
            one = Climb(plan, Records(self.folder / "records.jsonl"), display)
            if resume:
                one.resume()
            one.run()
        return one.records.read()

    def tries(self, **fields) -> list[bool]:
        """Of each job with these recipe fields: whether it asked for the check."""
        rungs = [job for job in self.jobs if job["kind"] == "rung"]
        return ["check" in job for job in rungs if job["recipe"].items() >= fields.items()]


@pytest.fixture
def climb(tmp_path, monkeypatch) -> Run:
    return Run(tmp_path, monkeypatch)


def test_a_false_winner_is_out_and_the_next_best_wins(climb):
    """The fastest computes something else: only a check before the race can tell."""
    (record,) = climb((3,), failed("not equivalent: by far", recipe=AT_256, checked=True))
    assert record["status"] == "ok", record["reason"]
    assert not record["recipe"].items() >= AT_256.items()
    assert record["candidates"]["256 tokens"] is None
    assert record["refused"]["256 tokens"]["reason"] == "not equivalent: by far"
    assert "256 tokens failed" in record["note"]
    assert climb.tries(**AT_256) == [True]  # out: not tried a second time
    assert climb.tries(objective=CHUNKED, loss_rows=1024)[:2] == [True, False]  # checked once
    tries = [job for job in climb.jobs if job["kind"] == "rung"]
    assert all(job["applied"][-1] == 3 for job in tries)  # whose probe every try must pass


def test_what_is_out_keeps_its_reason_and_the_end_of_its_log(climb):
    rule = failed("RuntimeError: it broke", recipe=AT_256, log=TRACE)
    (record,) = climb((3,), rule)
    entry = record["refused"]["256 tokens"]
    assert entry["status"] == "failed"
    assert entry["log"].endswith("RuntimeError: it broke\n")
    assert len(entry["log"]) == 2000
    assert set(record["refused"]) == {"256 tokens"}
    assert record["log"] == ""  # the rung itself ended well
    again = climb((3, 4), rule, resume=True)
    assert again[0] == record
    assert again[-1]["recipe"]["loss_rows"] == record["recipe"]["loss_rows"]


def test_where_none_passes_the_rung_fails_and_says_why(climb):
    (record, above) = climb((3, 4), failed("not in effect: nothing ran", applied=3, log="why"))
    assert record["status"] == "failed"
    assert record["reason"] == "no candidate passed: not in effect: nothing ran"
    assert set(record["refused"]) == set(record["candidates"])
    assert set(record["candidates"].values()) == {None}
    assert record["log"] == "why\n"
    assert (above["status"], 3 in above["applied"]) == ("ok", False)
    assert len([job for job in climb.jobs if 3 in job["applied"]]) == len(record["refused"])
    assert {"csv", "md", "png", "losses"} <= write_results(
        [record, above], climb.folder, LADDER
    ).keys()


def test_what_fails_in_different_ways_is_told_apart(climb):
    one = failed("not equivalent: by far", recipe=AT_256)
    others = failed("not in effect: nothing ran", applied=3)
    (record,) = climb((3,), others, one)  # the last rule counts
    assert "256 tokens: not equivalent: by far" in record["reason"]
    assert "whole logits: not in effect: nothing ran" in record["reason"]


def test_a_disturbed_candidate_is_tried_and_checked_again(climb):
    def once(job, outcome):
        if job.to_json()["recipe"].items() >= AT_256.items() and len(climb.tries(**AT_256)) == 1:
            outcome.status, outcome.measurement = "disturbed", {}

    (record,) = climb((3,), spoil=once)
    assert record["recipe"].items() >= AT_256.items()
    assert record["refused"] == {}
    assert climb.tries(**AT_256) == [True, True, True]  # twice in the race, then as the rung


def test_what_the_chosen_ones_first_try_measured_is_kept(climb):
    """A process that comes later finds in caches what that one had to make."""

    def counted(job, outcome):
        outcome.measurement["first_step_s"] = float(len(climb.jobs))

    (record,) = climb((3,), spoil=counted)
    asked = [number for number, job in enumerate(climb.jobs, start=1)
             if job["kind"] == "rung" and job["recipe"].items() >= AT_256.items()]  # fmt: skip
    assert record["first_try"]["first_step_s"] == asked[0]
    assert record["measurement"]["first_step_s"] == asked[-1] > asked[0]
    assert "step_s" not in record["first_try"]


def test_a_measurement_that_fails_keeps_the_end_of_its_log(climb):
    bad, good = climb((1, 4), failed("RuntimeError: it broke", applied=1, log=TRACE))
    assert bad["status"] == "failed"
    assert bad["log"].endswith("RuntimeError: it broke\n")
    assert len(bad["log"]) == 2000
    assert good["log"] == ""


def test_records_of_before_are_still_read(climb):
    """Without "refused" and "log", also one whose candidates all failed."""
    climb((3,))
    path = climb.folder / "records.jsonl"
    old = json.loads(path.read_text())
    del old["refused"], old["log"]
    path.write_text(json.dumps(old) + "\n")
    count = len(climb.jobs)
    above = climb((3, 4), resume=True)[-1]
    assert len(climb.jobs) == count + 1
    assert above["recipe"]["loss_rows"] == 256
    assert {"csv", "md", "png", "losses"} <= write_results(
        climb((3, 4), resume=True), climb.folder, LADDER
    ).keys()
    old |= {"status": "skipped", "reason": "no", "candidates": dict.fromkeys(old["candidates"])}
    path.write_text(json.dumps(old) + "\n")
    above = climb((3, 4), resume=True)[-1]
    assert 3 not in above["applied"]


def test_a_rung_carried_along_that_refuses_is_left_out(climb):
    """Unmeasured itself, so that only the child of the rung above could tell."""
    (record,) = climb((6,), refused(4, applied=4))
    assert record["status"] == "ok", record["reason"]
    assert 4 not in record["applied"]
    assert record["applied"][-1] == 6
    assert record["refused"] == {}
    above = climb((0, 4), refused(1, applied=1))[-1]
    assert (above["status"], 1 in above["applied"]) == ("ok", False)
    assert above["candidates"] == {}  # there were none that could tell


def test_a_rungs_own_refusal_is_its_own(climb):
    (record,) = climb((4,), refused(4, applied=4))
    assert (record["status"], record["reason"]) == ("skipped", "too wide")


def test_a_rung_that_was_measured_is_not_left_out_for_another(climb):
    rule = refused(4, applied=5)
    below, record = climb((4, 5), rule)
    assert below["status"] == "ok"
    assert record["status"] == "skipped"
    assert record["reason"] == "then rung 4 does not apply: too wide"


def test_a_base_that_refuses_takes_with_it_what_adds_to_it(climb):
    base = faulty.rung(1, "Base", faulty.fine)
    top = faulty.rung(2, "Top", faulty.fine)
    top.BASE = 1
    ladder = Ladder(name="tests.faulty", workload=TRAINING, modules=(base, top))
    (record,) = climb((2,), refused(1, applied=1), ladder=ladder)
    assert (record["status"], record["reason"]) == ("skipped", "it adds to rung 1: too wide")


def test_a_child_names_the_rung_whose_code_refuses(monkeypatch):
    def build(job, tell):
        return refusing.NarrowOnly(128, 2, 0.0, lambda x: x)

    job = {"ladder": faulty.WIDE.address, "applied": [4, 5, 6]}
    monkeypatch.setattr("common.engine.child.do", build)
    told = guarded(job, print)
    assert (told["status"], told["refuser"]) == ("skipped", 5)
    assert guarded(job | {"applied": [4]}, print)["refuser"] is None

    def elsewhere(job, tell):
        raise DoesNotApply("3 layers do not divide")

    monkeypatch.setattr("common.engine.child.do", elsewhere)
    assert guarded(job, print)["refuser"] is None


def test_the_search_names_what_refuses_and_goes_on_without_it(climb):
    """Candidates and the largest batch are tried in one way: with probes, rung by rung."""
    seen = climb((15, 16), refused(4, applied=4), device=GPU)
    assert [record["status"] for record in seen] == ["ok", "ok"]
    assert all(4 not in record["applied"] for record in seen)
    assert seen[-1]["searched"]
    assert seen[-1]["note"].startswith("search ended at")


def real(folder: Path, ladder: Ladder, number: int, shape: Shape) -> dict:
    """The record of one rung, measured by real children."""
    plan = Plan(
        ladder=ladder,
        baseline=replace(baseline("tiny"), batch_size=2),
        device=CPU,
        settings=Settings(shape=shape, device="cpu", steps=2, warmup=2),
        numbers=(number,),
        preset="tiny",
        timeout=120.0,
    )
    with Display(plan) as display, short_climb():
        Climb(plan, Records(folder / "records.jsonl"), display).run()
    (record,) = Records(folder / "records.jsonl").read()
    return record


def test_real_candidates_pass_their_probe_before_they_race(tmp_path):
    """One that breaks in its probe, two that are refused, and one that is what it says."""
    shape = Shape(layers=1, heads=1, emb_dim=8, context=8)
    record = real(tmp_path, faulty.CHOICE, 1, shape)
    assert record["status"] == "ok", record["reason"]
    out = record["refused"]
    assert out["straw"]["reason"] == "ZeroDivisionError: a rung of straw"
    assert "in breaks" in out["straw"]["log"]  # the traceback names the place
    assert out["nothing"]["reason"] == "not in effect: the probe saw nothing"
    assert out["another"]["reason"].startswith("not equivalent: declared exact")
    assert record["candidates"]["stone"] > 0
    assert record["measurement"]["in_effect"] == {"1": "fine"}


def test_wide_heads_do_not_keep_int8_logits_from_being_measured(tmp_path):
    """As a whole ladder does: without the rung below, which only a child can refuse."""
    shape = Shape(layers=1, heads=1, emb_dim=64, context=32)
    record = real(tmp_path, faulty.WIDE, 6, shape)
    assert (record["status"], record["reason"]) == ("ok", "")
    assert record["applied"] == [1, 2, 3, 4, 6]
    assert all(record["candidates"].values())
    assert record["refused"] == {}
