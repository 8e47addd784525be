"""Before a rung is timed: does the user's model still compute the same loss and gradients?

On a small batch, from the same weights, with dropout off, they are compared with those of the model
as it is in float64, or in float32 where it cannot work in float64. What the model itself does not
repeat is found by asking it twice, with other random numbers.
"""

from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils._pytree import tree_map

from common.engine.contract import Numerics
from common.engine.errors import UserError, out_of_memory
from common.workloads.own.build import SEED, Run, gradients, make_model
from common.workloads.own.change import compiled, fitting
from common.workloads.own.metrics import STEADY
from common.workloads.own.recipe import FLOAT32, OwnRecipe
from common.workloads.own.user_file import UserFile, seed_all
from common.workloads.train.equivalence import (
    FACTOR,
    LIMITS,
    SPACING,
    Allowed,
    GradientCheck,
    judge,
    norm,
    refuse_other_bits,
    relative_errors,
)

SAMPLES = 4  # of the small batch, at least
# A deep model makes more of each rounding than the two layers for which LIMITS were found. How much
# more, its own error in float32 tells: it grows with the format's spacing, but never allows more
# than this, which a missing scale or mask exceeds.
MOST = 0.5
UNJUDGED = 1e9  # relative: no error is too large


@dataclass(frozen=True, kw_only=True)
class OwnCheck(GradientCheck):
    """With what it was compared, and how far the model was from itself when asked twice."""

    reference: str  # number format
    unsteady: float  # relative
    mode: str  # of the model: "train", or "eval" where it repeats itself only so


class Asked:
    """A user's model, asked for its loss and gradients as recipes have it, always of one batch."""

    def __init__(self, user: UserFile, recipe: OwnRecipe, device: torch.device) -> None:
        self.user, self.device, self.train = user, device, True
        seed_all(SEED)
        model = user.model().to(device)
        with torch.no_grad():
            for parameter in model.parameters():  # what every format can hold
                parameter.copy_(parameter.bfloat16())
        self.weights = model.state_dict()
        seed_all(0)
        self.batch = user.batch(max(SAMPLES, recipe.accumulation), device.type)

    def __call__(self, recipe: OwnRecipe, dtype=None, seed: int = 0) -> dict[str, torch.Tensor]:
        """Loss and every gradient, float64 on the CPU. `dtype`: to compute in, if another."""
        model, named = make_model(self.user, recipe, self.device, self.weights)
        shapes = {name: self.weights[name].shape for name in named}
        without_dropout(model)
        model.train(self.train)
        if dtype:
            model.to(dtype)
        compiled(model, recipe)
        run = Run(recipe, self.user, self.device, model, None, named)
        seed_all(seed)
        loss = gradients(run, fitting(tree_map(clone, self.batch), recipe, self.device, dtype))
        answers = {"loss": loss}
        for name, parameter in named.items():
            gradient = parameter.grad  # None: the loss does not depend on it
            whole = torch.zeros_like(parameter) if gradient is None else gradient
            answers[name] = whole[: shapes[name][0]] if whole.ndim else whole  # without padding
        return {name: value.detach().cpu().double() for name, value in answers.items()}


def clone(leaf):
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def without_dropout(model: nn.Module) -> None:
    """Every probability of dropping something is 0: of dropout's modules, and of attributes."""
    for part in model.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = 0.0
        for name, value in vars(part).items():
            if isinstance(value, float) and "drop" in name.lower():
                setattr(part, name, 0.0)


def check(
    user: UserFile,
    recipe: OwnRecipe,
    below: OwnRecipe,
    baseline: OwnRecipe,
    claim: Numerics,
    device: torch.device,
) -> OwnCheck:
    """Raises NotEquivalent if the recipe is not what its rung declares to be."""
    ask = Asked(user, recipe, device)
    plain, unsteady = repeated(ask, baseline)
    reference, name = exact(ask, baseline, plain)
    if not norm(reference):
        raise UserError("every gradient of the check's small batch is 0: nothing can be compared")
    errs = max(unsteady, *relative_errors(plain, reference).values())
    allowed = by_format(recipe, errs / spacing(baseline.format))
    if claim is Numerics.EXACT and not unsteady:
        beneath = ask(below)
    elif claim is Numerics.ROUNDING:  # uncompiled: as good a measure of it, and sooner known
        beneath = ask(replace(below, compile=""))
        allowed = allowed.and_at_most(by_rounding(recipe, beneath, reference, unsteady))
    own = ask(recipe)
    if unsteady > STEADY:
        allowed = Allowed(UNJUDGED, UNJUDGED)
    found = judge(own, reference, claim, allowed, recipe.format)
    formats = found.formats
    if claim is Numerics.EXACT and not unsteady:
        refuse_other_bits(own, beneath)
        found = replace(found, same_as_below=True)
    elif claim is Numerics.ROUNDING and unsteady <= STEADY and recipe.format != "float32":
        formats += check_in_float32(ask, recipe, below, reference, unsteady)
    values = vars(found) | {"formats": formats}
    mode = "train" if ask.train else "eval"
    return OwnCheck(**values, reference=name, unsteady=unsteady, mode=mode)


def repeated(ask: Asked, baseline: OwnRecipe) -> tuple[dict, float]:
    """The model's answers as it is, and how far apart two askings were; in eval mode if need be."""
    for ask.train in (True, False):
        answers = ask(baseline)
        apart = max(relative_errors(ask(baseline, seed=1), answers).values())
        if apart <= LIMITS["float32"]:
            return answers, apart
    ask.train = True
    answers = ask(baseline)
    return answers, max(relative_errors(ask(baseline, seed=1), answers).values())


def exact(ask: Asked, baseline: OwnRecipe, plain: dict) -> tuple[dict, str]:
    """The answers in float64; the plain ones where the model cannot, and which they are."""
    try:
        return ask(baseline, torch.float64), "float64"
    except (UserError, RuntimeError, TypeError) as error:
        if out_of_memory(error):
            torch.accelerator.is_available() and torch.accelerator.empty_cache()
        return plain, baseline.format


def by_format(recipe: OwnRecipe, grows: float) -> Allowed:
    """What number formats may do to a model's answers. `grows`: its own errors over the spacing."""

    def most(name: str) -> float:
        grown = FACTOR * grows * spacing(name)
        return max(LIMITS.get(name, LIMITS["float32"]), min(MOST, grown))

    limit = max(most(recipe.format), most(recipe.kept))
    return Allowed(limit, limit)


def by_rounding(recipe: OwnRecipe, beneath: dict, reference: dict, unsteady: float) -> Allowed:
    """What the rounding of the same computation, as `beneath` shows it, may do to the answers."""
    errors, floor = relative_errors(beneath, reference), max(LIMITS["float32"], FACTOR * unsteady)
    coarse = max(spacing(recipe.format), spacing(recipe.kept))
    loss = max(floor, coarse, FACTOR * errors.pop("loss"))
    return Allowed(max(floor, FACTOR * max(errors.values())), loss)


def spacing(name: str) -> float:
    return SPACING.get(name, SPACING["float32"])  # of float64 less


def check_in_float32(
    ask: Asked, recipe: OwnRecipe, below: OwnRecipe, reference: dict, unsteady: float
) -> tuple[str, ...]:
    """Hold a rung that only rounds to it where little rounding hides a wrong formula.

    Which formats that adds: none for what cannot work in float32.
    """
    plain = {"precision": FLOAT32, "matmul_precision": "highest", "compile": ""}
    recipe = replace(recipe, **plain)
    if recipe.format != "float32":
        return ()
    with suppress(RuntimeError, UserError):
        beneath, own = ask(replace(below, **plain)), ask(recipe)
        allowed = by_rounding(recipe, beneath, reference, unsteady)
        judge(own, reference, Numerics.ROUNDING, allowed, "float32")
        return ("float32",)
    return ()
