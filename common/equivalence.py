"""Before a rung is timed: does it still compute the same thing?

At a small shape on the device at hand, from identical weights and tokens with dropout off, the
rung's loss and gradients are compared with the baseline's in float64, and held to what the rungs
on the way declared. A rung that fails is not timed.
"""

from dataclasses import asdict, dataclass, replace

import torch
from torch.nn import functional as F

from common.build import Run, build
from common.model import LogitsLoss
from common.recipe import Numerics, Recipe, Shape

SHAPE = Shape(layers=2, heads=2, emb_dim=64, context=64, vocab_size=1009)  # a prime: it pads
# for objectives that count padding ids, which are different work; products in 8 bits want 16s
UNPADDED = replace(SHAPE, vocab_size=1008)
BATCH_SIZE = 2

# The worst relative error of a gradient that is still rounding, by format:
# about ten times what two layers showed when the rungs were right (7e-4 in TF32 and 1.1e-2 in
# bfloat16 on an H200), and far under what a missing scale, mask, or shortcut makes of them.
LIMITS = {"float32": 2e-5, "tf32": 1e-2, "bfloat16": 1e-1, "float8": 3e-1}


class NotEquivalent(Exception):
    """The rung computes something else than it declares."""


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Relative errors against the baseline in float64, and the limit they were held to."""

    loss_error: float
    grad_norm_error: float
    worst_gradient_error: float
    worst_gradient: str  # the parameter's name
    same_as_below: bool  # bit for bit the same loss and gradients as the rung below
    limit: float

    def to_json(self) -> dict:
        return asdict(self)


def check(
    recipe: Recipe, below: Recipe, baseline: Recipe, numerics: Numerics, device: torch.device
) -> Equivalence:
    """Raises NotEquivalent if the recipe is not what its rung declares to be."""
    exact = device if device.type != "mps" else torch.device("cpu")  # Metal has no float64
    shape = UNPADDED if has_own_loss(recipe) else SHAPE
    reference = answers(replace(baseline, dtype=torch.float64, compile=False), exact, shape)
    own = answers(recipe, device, shape)
    same = False
    if numerics is Numerics.EXACT:
        beneath = answers(below, device, shape)
        same = all(torch.equal(own[name], beneath[name]) for name in own)
    stored = str(recipe.dtype).removeprefix("torch.")
    limit = max(LIMITS[recipe.format], LIMITS[stored])  # of what is multiplied, and of what is kept
    found = judge(own, reference, limit, same)
    if numerics is Numerics.EXACT and not same:
        raise NotEquivalent("declared exact, but not bit for bit what the rung below computes")
    return found


def judge(own: dict, reference: dict, limit: float, same: bool = False) -> Equivalence:
    """Compare loss and gradients by name. Raises NotEquivalent where they are further apart."""
    errors = {name: relative_error(own[name], reference[name]) for name in own}
    loss_error = errors.pop("loss")
    worst = max(errors, key=errors.get)
    found = Equivalence(
        loss_error=loss_error,
        grad_norm_error=abs(norm(own) / norm(reference) - 1),
        worst_gradient_error=errors[worst],
        worst_gradient=worst,
        same_as_below=same,
        limit=limit,
    )
    if not found.worst_gradient_error <= found.limit or not loss_error <= found.limit:  # NaN fails
        raise NotEquivalent(
            f"gradient of {worst} is off by {errors[worst]:.1e}, loss by {loss_error:.1e}; "
            f"allowed: {found.limit:.0e}"
        )
    return found


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
    recipe: Recipe, device: torch.device, shape: Shape = SHAPE, batch_size: int = BATCH_SIZE
) -> dict[str, torch.Tensor]:
    """Loss and every gradient over the tokenizer's ids, in float64 on the CPU, by name."""
    own_loss = has_own_loss(recipe)
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
        table = parameter.shape[0] > shape.vocab_size  # padding rows are not compared
        found[name] = parameter.grad[: shape.vocab_size] if table else parameter.grad
    return {name: value.cpu().double() for name, value in found.items()}


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value - reference).norm() / reference.norm()).item()


def norm(values: dict[str, torch.Tensor]) -> float:
    """The norm of all gradients together."""
    return sum(v.norm().item() ** 2 for name, v in values.items() if name != "loss") ** 0.5
