"""Each step is held to its declaration: what it changes, and what it does to the numbers.

Neighbours on the ladder share their weights by name and see the same batch with dropout off. The
whole stack is compared, and again with everything in float32, where a tight tolerance tells wrong
code from low precision.
"""

from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from torch.nn import functional as F

from common.engine.contract import Numerics
from common.gpt.model import LogitsLoss
from common.gpt.weights import load_unpadded_state, unpadded_state
from common.workloads.parallel.recipe import ParallelRecipe
from common.workloads.train.build import build, train_step
from common.workloads.train.equivalence import has_own_loss
from common.workloads.train.recipe import LARGEST, Recipe
from ladders import parallel
from steps import LADDER, step05_bfloat16, step09_vocab_padding
from tests.conftest import SMALL

CPU = torch.device("cpu")
NUMBERS = [rung.number for rung in LADDER.rungs if "data" not in rung.changes]  # one process
BASELINE = Recipe(dropout=0.0, batch_size=2)
# worst relative error (norm of the difference over the norm) of logits, loss, and each gradient
FLOAT32_ROUNDING = 1e-5
BFLOAT16_ROUNDING = 0.05  # 8 bits of mantissa, through two layers and back


def number_of(rung) -> int:
    return next(one.number for one in LADDER.rungs if one.module is rung)


def recipe_at(number: int, **changes) -> Recipe:
    recipe = LADDER.compose(BASELINE, range(number + 1))
    return replace(recipe, batch_size=2, **changes)


@cache  # a rung is compared with both of its neighbours, and compiling takes seconds
def answers(recipe: Recipe, own_loss: bool = False) -> dict[str, torch.Tensor]:
    """Logits, loss, and every gradient over the tokenizer's ids, in float32.

    The loss is taken over these ids only, or, as `own_loss`, by the recipe's objective; that would
    count padding ids, so then there are none.
    """
    run = build(replace(recipe, vocab_multiple=1) if own_loss else recipe, SMALL, CPU)
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randint(509, (2, 2, 16), generator=generator)
    logits = run.model(inputs)[..., : SMALL.vocab_size]
    if own_loss:
        loss = run.objective(inputs, targets)
    else:
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    loss.backward()
    found = {"logits": logits.detach(), "loss": loss.detach()}
    for name, parameter in run.model.named_parameters():
        rows = parameter.grad[: SMALL.vocab_size] if parameter.grad.dim() == 2 else parameter.grad
        found[name] = rows
    return {name: value.float() for name, value in found.items()}


def worst_error(before: dict, after: dict) -> float:
    assert before.keys() == after.keys()
    return max(((before[k] - after[k]).norm() / before[k].norm()).item() for k in before)


def error_between(below: Recipe, above: Recipe) -> float:
    """The worst error of logits, loss, and gradients; both losses are had in the same way."""
    own_loss = has_own_loss(below) or has_own_loss(above)
    return worst_error(answers(below, own_loss), answers(above, own_loss))


def hold_to_declaration(numerics: Numerics, below: Recipe, above: Recipe) -> None:
    error = error_between(below, above)
    if numerics is Numerics.EXACT:
        assert error == 0.0
    elif above.dtype is torch.float32:
        assert error < FLOAT32_ROUNDING
    else:
        assert error < BFLOAT16_ROUNDING


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_are_as_declared(number):
    declared = LADDER.rung(number).numerics
    hold_to_declaration(declared, recipe_at(number - 1), recipe_at(number))


@pytest.mark.parametrize("number", NUMBERS)
def test_float32_tells_wrong_code_from_low_precision(number):
    below, above = (recipe_at(n, dtype=torch.float32) for n in (number - 1, number))
    assert error_between(below, above) < FLOAT32_ROUNDING


class SameLoss(LogitsLoss):
    """Cross-entropy as a layer: the same kernels."""

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.CrossEntropyLoss()(self.model(ids).flatten(0, 1), targets.flatten())


class SmoothedLoss(LogitsLoss):
    """Something else, and nothing but the objective tells."""

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self.model(ids).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), label_smoothing=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rung_that_changes_the_objective_is_held_to_what_it_declares(dtype):
    below = recipe_at(NUMBERS[-1], dtype=dtype)
    hold_to_declaration(Numerics.EXACT, below, replace(below, objective=SameLoss))
    for numerics in (Numerics.EXACT, Numerics.ROUNDING):
        with pytest.raises(AssertionError):
            hold_to_declaration(numerics, below, replace(below, objective=SmoothedLoss))


def test_bfloat16_is_lower_precision_and_says_so():
    number = number_of(step05_bfloat16)
    error = error_between(recipe_at(number - 1), recipe_at(number))
    assert FLOAT32_ROUNDING < error < BFLOAT16_ROUNDING
    assert step05_bfloat16.NUMERICS is Numerics.LOWER_PRECISION


@pytest.mark.parametrize("number", NUMBERS)
def test_training_steps_move_the_weights_alike(number):
    """Three updates of each neighbour, in float32: the optimizer is part of the answer.

    Adam divides by the gradient's own size, so where that is near 0 rounding decides an update's
    sign; over a whole parameter it may not show.
    """
    updates = (updates_of(recipe_at(n, dtype=torch.float32)) for n in (number - 1, number))
    different_work = LADDER.rung(number).numerics is Numerics.DIFFERENT_WORK
    assert worst_error(*updates) < (0.2 if different_work else 0.02)


@cache
def updates_of(recipe: Recipe) -> dict[str, torch.Tensor]:
    """By how much three updates move each weight."""
    run = build(recipe, SMALL, CPU)
    before = {name: value.clone() for name, value in unpadded_state(run.inner, SMALL).items()}
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        train_step(run, *torch.randint(509, (2, 2, 16), generator=generator))
    return {k: value - before[k] for k, value in unpadded_state(run.inner, SMALL).items()}


@pytest.mark.parametrize("number", NUMBERS)
def test_exactly_the_declared_fields_change(number):
    rung = LADDER.rung(number)
    below = LADDER.compose(BASELINE, range(number))
    above = rung.apply(below)
    changed = {f.name for f in fields(Recipe) if getattr(below, f.name) != getattr(above, f.name)}
    assert changed == set(rung.changes)


def test_the_last_step_changes_what_it_declares():
    """On several devices; what it adds to a recipe of one is a parallel recipe's plain choices."""
    rung, below = LADDER.rung(LADDER.top), replace(recipe_at(NUMBERS[-1]), devices=2)
    plain, above = ParallelRecipe.of(below), rung.apply(below)
    changed = {f.name for f in fields(above) if getattr(plain, f.name) != getattr(above, f.name)}
    assert changed == set(rung.changes)
    assert above.processes == 2


def test_no_two_rungs_change_the_same_field():
    changes = [field for rung in LADDER.rungs for field in rung.changes]
    assert len(changes) == len(set(changes))


@pytest.mark.parametrize("number", [0, *NUMBERS])
def test_one_state_dict_fits_all_rungs(number):
    bottom = build(BASELINE, SMALL, CPU)
    with torch.no_grad():
        for parameter in bottom.model.parameters():
            parameter.copy_(torch.randn_like(parameter).bfloat16())  # exact in every dtype
    other = build(recipe_at(number), SMALL, CPU)
    load_unpadded_state(other.inner, unpadded_state(bottom.inner, SMALL))
    back = unpadded_state(other.inner, SMALL)
    for name, value in unpadded_state(bottom.inner, SMALL).items():
        assert torch.equal(back[name].float(), value), name


def test_a_state_of_another_shape_is_refused():
    other = build(BASELINE, replace(SMALL, emb_dim=64), CPU)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_unpadded_state(
            build(BASELINE, SMALL, CPU).inner, unpadded_state(other.inner, other.shape)
        )


def test_padding_costs_what_its_docstring_says():
    """The loss over all columns starts log((V + 47) / V) too high, and no more."""
    losses = []
    padding = number_of(step09_vocab_padding)
    for number in (padding - 1, padding):
        run = build(recipe_at(number, dtype=torch.float32, compile=False), SMALL, CPU)
        with torch.no_grad():
            run.model.head.weight.zero_()  # uniform over the columns
        ids = torch.zeros(2, 16, dtype=torch.long)
        losses.append(train_step(run, ids, ids).item())
    assert losses[1] - losses[0] == pytest.approx(torch.tensor(512 / 509).log().item(), rel=1e-3)


def test_the_top_is_the_whole_ladder():
    assert LADDER.compose(Recipe(), NUMBERS).batch_size == LARGEST


def test_the_last_step_is_the_parallel_ladders_first():
    assert LADDER.rung(LADDER.top).changes == parallel.LADDER.rung(1).changes


def test_the_titles_carry_their_numbers():
    for number in NUMBERS:
        assert LADDER.rung(number).module.__doc__.startswith(f"{number}. {LADDER.title(number)}.")
        assert f"step{number:02d}_" in LADDER.rung(number).module.__name__
