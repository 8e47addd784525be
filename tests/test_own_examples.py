"""Each example climbs: every rung that applies to it passes its check, acts, and trains."""

import math

import pytest
import torch

from common.accelerator.device import describe
from common.engine.child import prober
from common.engine.measure import measure
from common.engine.records import Records
from common.report.recommendation import ON, advice
from common.workloads.own.check import check
from common.workloads.own.inspect import look_at
from common.workloads.own.recipe import OwnRecipe
from common.workloads.own.session import OwnSession
from common.workloads.own.settings import Settings
from common.workloads.own.user_file import UserFile
from ladders.own import LADDER
from tests.conftest import PROJECT

CPU, HERE, BATCH = torch.device("cpu"), describe("cpu"), 4
EXAMPLES = {path.stem: path for path in sorted((PROJECT / "examples").glob("*.py"))}
EAGER = (*range(1, 9), *range(12, 16))  # rung 9 needs a process of its own, 10 and 16 take long
TOPS = (8, 12, 14, 15)  # the stair's eager top, and branches
FOUND = {  # rungs that must have something to do, beside those that every model has
    "plain": {6},
    "gpt2": {6, 8},
    "llama": {6},
    "vit": {5},
    "convnext": {5},
}
ALWAYS = {2, 14, 15}


def stack(number: int, plain: OwnRecipe) -> list[int]:
    chain = [n for n in LADDER.chain(number) if n == number or n < 9]
    return LADDER.applicable(chain, plain, HERE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_rung_that_applies_passes_and_acts(name, monkeypatch):
    monkeypatch.setenv("EXAMPLES_TINY", "1")
    user = UserFile(EXAMPLES[name])
    about = look_at(user, "cpu", BATCH)
    assert about.notes == ()
    plain = OwnRecipe(about=about, batch_size=BATCH)
    applied = {n: stack(n, plain) for n in EAGER if n in stack(n, plain)}
    assert applied.keys() >= ALWAYS | FOUND.get(name, set())
    for number, numbers in applied.items():
        below = LADDER.compose(plain, [n for n in numbers if n != number])
        claim = LADDER.numerics(number)
        found = check(user, LADDER.compose(plain, numbers), below, plain, claim, CPU)
        assert (found.reference, found.mode) == ("float64", "train")
    settings = Settings(device="cpu", steps=1, warmup=2, file=str(EXAMPLES[name]))
    for number in TOPS:
        numbers = stack(number, plain)
        session = OwnSession(user, LADDER.compose(plain, numbers), settings, CPU)
        probe = prober({"ladder": LADDER.address, "applied": numbers})
        told = measure(lambda s=session: s, settings, probe, lambda phase: None)
        assert all(map(math.isfinite, told["losses"]))


def row(folder) -> str:
    """Of the guide's table: the example, parameters, the machine, and what it should turn on."""
    records = Records(folder / "records.jsonl").read()
    about, machine = records[0]["baseline"]["about"], records[0]["machine"]
    on = [f"{one.name} {one.gain}" for one in advice(records, LADDER) if one.kind == ON]
    file = f"[{folder.name.removeprefix('own-')}.py]"
    link = f"{file}(../results/{folder.parent.name}/{folder.name}/recommendation.md)"
    cells = link, f"{about['parameters'] / 1e6:.1f} M", machine["instruction_set"], "; ".join(on)
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("page", ["own_model.md", "own_model.ja.md"])
def test_the_guide_says_what_each_example_should_turn_on(page):
    text, folders = (PROJECT / "docs" / page).read_text(), sorted(PROJECT.glob("results/*/own-*"))
    assert {folder.name.removeprefix("own-") for folder in folders} == EXAMPLES.keys()
    assert [row(folder) for folder in folders if row(folder) not in text] == []
