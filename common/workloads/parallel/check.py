"""Several processes' loss and gathered gradients against those of one process in float64."""

from dataclasses import replace

import torch
import torch.distributed as dist

from common.engine.contract import Numerics
from common.engine.job import Against
from common.gpt.shape import Shape
from common.workloads.parallel.layout import (
    forward_backward,
    lay_out,
    mean_loss,
    own_windows,
    small,
    whole_gradients,
)
from common.workloads.parallel.recipe import ParallelRecipe
from common.workloads.train.equivalence import (
    GradientCheck,
    answers,
    by_format,
    by_rounding,
    coarse_weights,
    judge,
    made_up_ids,
)


def check(recipe: ParallelRecipe, against: Against, device: torch.device) -> GradientCheck | None:
    """Loss and gathered gradients against one process in float64, in the first process.

    Raises NotEquivalent there, if they are not what the rung declares.
    """
    recipe, baseline = small(recipe), against.baseline
    shape = small_shape(recipe)
    run = lay_out(recipe, shape, device)
    coarse_weights(run)
    windows = recipe.windows * recipe.data
    ids = made_up_ids(shape, windows)
    inputs, targets = (own_windows(run, part) for part in (ids[:, :-1], ids[:, 1:]))
    loss = mean_loss(run, forward_backward(run, inputs, targets))
    own = whole_gradients(run)
    if dist.get_rank() != 0:
        return None
    reference = answers(replace(baseline, dtype=torch.float64), device, shape, windows)
    own["loss"] = torch.tensor(loss, dtype=torch.float64)
    assert own.keys() == reference.keys()
    claim, allowed = against.numerics, by_format(recipe)
    if claim is Numerics.ROUNDING:  # as one process in the same format shows it
        alone = answers(baseline, device, shape, windows)
        allowed = allowed.and_at_most(by_rounding(recipe, alone, reference))
    return judge(own, reference, claim, allowed, recipe.format)


def small_shape(recipe: ParallelRecipe) -> Shape:
    """Small, and divisible by whatever the recipe cuts."""
    heads = 2 * recipe.tensor
    return Shape(
        layers=2 * recipe.stages, heads=heads, emb_dim=16 * heads, context=64, vocab_size=1008
    )
