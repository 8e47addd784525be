"""Before a rung is timed: does it still compute the same thing?

At a small shape on the device at hand, from identical weights and tokens with dropout off, the
rung's loss and gradients are compared with the baseline's in float64, and held to what the rung
declares in the format it uses. A rung that fails is not timed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn import functional as F

from common.engine.contract import NotEquivalent, Numerics
from common.engine.errors import out_of_memory
from common.engine.workload import Check
from common.gpt.model import LogitsLoss
from common.gpt.shape import Shape
from common.workloads.train.build import Run, build
from common.workloads.train.recipe import Recipe

SHAPE = Shape(layers=2, heads=2, emb_dim=64, context=64, vocab_size=1009)  # a prime: it pads
# for objectives that count padding ids, which are different work; products in 8 bits want 16s
UNPADDED = replace(SHAPE, vocab_size=1008)
BATCH_SIZE = 2

# The worst relative error of a gradient that a format may make, whatever a rung declares:
# about ten times what two layers showed when the rungs were right (7e-4 in TF32 and 1.1e-2 in
# bfloat16 on an H200), and far under what a missing scale, mask, or shortcut makes of them.
LIMITS = {"float32": 2e-5, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 1e-1, "float8": 3e-1}
# How many times the error of the rung below a rung that only rounds may show. Over 12 seeds each,
# the rungs of steps and beyond showed at most 2.2 times it on a CPU (step 6, whose native LayerNorm
# sums its gradients in bfloat16 there); a LayerNorm that is 2 % too large showed 8.5 times it.
FACTOR = 4.0
# From 1 to the next number of the format, torch.finfo(...).eps. The loss is one number, which the
# rung below may hit by luck: 3e-6 in bfloat16, where the next rung was right and off by 8e-5.
SPACING = {
    **{"float32": 2**-23, "tf32": 2**-10, "float16": 2**-10, "bfloat16": 2**-7, "float8": 2**-3}
}
# Of all gradients' norm: what is smaller is compared with that. The least here is 4e-3.
FAINT = 1e-3


@dataclass(frozen=True, kw_only=True)
class GradientCheck(Check):
    """Of all gradients the worst. Errors are relative, against the baseline in float64."""

    loss_error: float
    grad_norm_error: float
    same_as_below: bool = False  # bit for bit the same loss and gradients as the rung below

    def to_json(self) -> dict:
        values = super().to_json()
        values["worst_gradient_error"] = values.pop("error")
        values["worst_gradient"] = values.pop("where")
        return values


@dataclass(frozen=True)
class Allowed:
    """The largest relative errors."""

    gradient: float
    loss: float

    def and_at_most(self, other: "Allowed") -> "Allowed":
        return Allowed(min(self.gradient, other.gradient), min(self.loss, other.loss))


def check(
    recipe: Recipe,
    below: Recipe,
    baseline: Recipe,
    claim: Numerics,
    device: torch.device,
    how: Callable | None = None,
) -> GradientCheck:
    """Raises NotEquivalent if the recipe is not what its rung declares to be.

    `how`: what gives a recipe's answers; by default `answers`.
    """
    exact = device if device.type != "mps" else torch.device("cpu")  # Metal has no float64
    own_loss = any(map(has_own_loss, (recipe, below, baseline)))  # then all: like with like
    ask = partial(how or answers, shape=UNPADDED if own_loss else SHAPE, own_loss=own_loss)
    reference = ask(replace(baseline, dtype=torch.float64, compile=False), exact)
    allowed = by_format(recipe)
    if claim is Numerics.EXACT:
        beneath = ask(below, device)
    elif claim is Numerics.ROUNDING:  # uncompiled: as good a measure of it, and sooner known
        beneath = ask(replace(below, compile=False), device)
        allowed = allowed.and_at_most(by_rounding(recipe, beneath, reference))
    own = ask(recipe, device)
    found = judge(own, reference, claim, allowed, recipe.format)
    if claim is Numerics.EXACT:
        refuse_other_bits(own, beneath)
        return replace(found, same_as_below=True)
    if claim is Numerics.ROUNDING and check_in_float32(recipe, below, reference, device, ask):
        return replace(found, formats=(*found.formats, "float32"))
    return found


def check_in_float32(
    recipe: Recipe, below: Recipe, reference: dict, device: torch.device, ask: Callable
) -> bool:
    """Hold a rung that only rounds to it in float32, where little rounding hides a wrong formula.

    In bfloat16 the other GELU or another epsilon of LayerNorm's is lost in it. False if the recipe
    is in float32 anyway, or cannot be: some kernels take 16 bits only.
    """
    if (recipe.dtype, recipe.format) == (torch.float32, "float32"):
        return False
    plain = {"dtype": torch.float32, "matmul_precision": "highest", "compile": False}
    plain |= {"autocast": None, "loss_scaling": False}
    recipe = replace(recipe, **plain)
    try:
        beneath, own = ask(replace(below, **plain), device), ask(recipe, device)
    except RuntimeError as error:  # torch's "No available kernel", and what others say
        if out_of_memory(error):
            raise
        return False
    allowed = by_rounding(recipe, beneath, reference)
    judge(own, reference, Numerics.ROUNDING, allowed, "float32")
    return True


def of_format(table: dict[str, float], recipe: Recipe) -> float:
    """The larger of two values: of what is multiplied, and of what is kept."""
    return max(table[recipe.format], table[str(recipe.dtype).removeprefix("torch.")])


def by_format(recipe: Recipe) -> Allowed:
    """What the recipe's number formats may do to the answers."""
    limit = of_format(LIMITS, recipe)
    return Allowed(limit, limit)


def by_rounding(recipe: Recipe, beneath: dict, reference: dict) -> Allowed:
    """What the rounding of the same computation, as `beneath` shows it, may do to the answers."""
    errors, floor = relative_errors(beneath, reference), LIMITS["float32"]
    loss = max(floor, of_format(SPACING, recipe), FACTOR * errors.pop("loss"))
    return Allowed(max(floor, FACTOR * max(errors.values())), loss)


def judge(
    own: dict, reference: dict, claim: Numerics, allowed: Allowed, name: str
) -> GradientCheck:
    """Compare loss and gradients, found in the format of that name.

    Raises NotEquivalent where they are further apart than allowed.
    """
    errors = relative_errors(own, reference)
    loss_error = errors.pop("loss")
    worst = max(errors, key=errors.get)
    found = GradientCheck(
        claim=claim,
        error=errors[worst],
        where=worst,
        limit=allowed.gradient,
        loss_error=loss_error,
        grad_norm_error=abs(norm(own) / norm(reference) - 1),
        formats=(name,),
    )
    for what, error, limit in (
        (f"gradient of {worst}", found.error, allowed.gradient),
        ("loss", loss_error, allowed.loss),
    ):
        if error > limit:
            raise NotEquivalent(
                f"declared {claim.value}, but in {name} the {what} is off by {error:.1e}, "
                f"where {limit:.1e} is allowed"
            )
    return found


def refuse_other_bits(own: dict, beneath: dict) -> None:
    errors = relative_errors(own, beneath)
    worst = max(errors, key=errors.get)
    if not all(torch.equal(own[name], beneath[name]) for name in own):
        what = "loss" if worst == "loss" else f"gradient of {worst}"
        raise NotEquivalent(
            f"declared {Numerics.EXACT.value}, but the {what} is off by {errors[worst]:.1e} from "
            "that of the rung below, where it must be the same bit for bit"
        )


def coarse_weights(run: Run) -> None:
    """Round the weights to what every dtype can hold, so that all start from the same ones."""
    with torch.no_grad():
        for parameter in run.inner.parameters():
            parameter.copy_(parameter.bfloat16())


def made_up_ids(shape: Shape, batch_size: int) -> torch.Tensor:
    """(B, T + 1) token ids, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(shape.vocab_size, (batch_size, shape.context + 1), generator=generator)


def has_own_loss(recipe: Recipe) -> bool:
    """Whether the loss is made together with the logits, so that padding ids are counted in it."""
    return recipe.objective is not LogitsLoss or recipe.loss_in_graph


def answers(
    recipe: Recipe,
    device: torch.device,
    shape: Shape = SHAPE,
    batch_size: int = BATCH_SIZE,
    own_loss: bool = False,
) -> dict[str, torch.Tensor]:
    """Loss and every gradient over the tokenizer's ids, in float64 on the CPU, by name.

    `own_loss`: through the recipe's objective, over a vocabulary without padding ids.
    """
    if own_loss:
        recipe = replace(recipe, vocab_multiple=1)
    run = build(replace(recipe, dropout=0.0, batch_size=batch_size), shape, device)
    coarse_weights(run)
    ids = made_up_ids(shape, batch_size).to(device)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    if own_loss:
        loss = run.objective(inputs, targets)
    else:
        logits = run.model(inputs)[..., : shape.vocab_size]
        if recipe.dtype is not torch.float64:
            logits = logits.float()  # as precise as the format allows: a bfloat16 loss has 3 digits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    found = {"loss": loss.detach()}
    for name, parameter in run.inner.named_parameters():
        gradient = parameter.grad  # None: the loss does not depend on it
        found[name] = torch.zeros_like(parameter) if gradient is None else gradient
        if parameter.shape[0] > shape.vocab_size:  # padding rows are not compared
            found[name] = found[name][: shape.vocab_size]
    return {name: value.detach().cpu().double() for name, value in found.items()}


def relative_errors(own: dict, reference: dict) -> dict[str, float]:
    """Each error's norm over that of the reference, or over FAINT of all if that is larger.

    Some gradients are 0 in exact arithmetic, such as a bias of keys'. What is no number is inf. An
    error of what is 0 altogether is absolute.
    """
    least = FAINT * norm(reference)
    errors = {}
    for name, value in reference.items():
        size = value.norm().item()
        scale = size if name == "loss" else max(size, least)
        error = (own[name] - value).norm().item() / (scale or 1.0)
        errors[name] = math.inf if math.isnan(error) else error
    return errors


def norm(values: dict[str, torch.Tensor]) -> float:
    """The norm of all gradients together."""
    return sum(v.norm().item() ** 2 for name, v in values.items() if name != "loss") ** 0.5
