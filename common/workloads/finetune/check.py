"""Before a rung is timed: is it the base at its start, and does it train what it should?

On a small shape, in float64. At its start a recipe answers as the base does; where it reads vectors
before the window, as the base that has read those tokens. Its gradients are those of its loss, by
differences along a line. Two updates move each trained part, and nothing else by a bit; all of it
also with blocks that the backward pass makes again. Merged weights answer as the parts beside them
do, to the rounding of each format, and from one text to another and back no bit is lost.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from common.engine.contract import NotEquivalent, Numerics
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.workload import Check
from common.gpt.model import GPT, Block
from common.gpt.shape import Shape
from common.workloads.finetune.build import Tuned, make_run
from common.workloads.finetune.parts import NOTHING, Mergeable, State, snapshot, trained
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.train.build import seed_parameters, train_step

# a width that groups of 32 weights divide, and a context that has room for what is read before
SHAPE = Shape(layers=2, heads=4, emb_dim=64, context=32, vocab_size=211)
WINDOWS, TOKENS = 2, 16
START = 1e-12  # relative, of logits in float64; the right ones showed 1e-15 and less
ROUNDED = 0.1  # of a frozen matrix in fewer bits, relative; 4 in groups of 32 showed 0.06
SLOPE = 1e-5  # relative, of a slope by differences
STEP = 1e-4  # to each side along a line of length 1
# of a layer's outputs, merged against beside: relative, by format; twice what right ones showed
MERGED = {torch.float64: 1.8e-15, torch.float32: 6e-7, torch.bfloat16: 1.2e-2}
AWAY = 0.03  # from the start: of made-up parts, as large as a training's
UPDATES = 2  # that move everything: a product of which one side is 0 moves that one first


class MadeAgain(Block):
    """A block whose forward pass the backward pass runs again."""

    recomputed = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
        return checkpoint(super().forward, x, use_reentrant=False)


@dataclass(frozen=True, kw_only=True)
class StartCheck(Check):
    """`error`: of the logits at the start, against the base's."""

    slope_error: float
    merged_errors: dict[str, float]  # of the worst layer, by format


def check(recipe: FinetuneRecipe, against: Against, device: torch.device) -> StartCheck:
    """Raises NotEquivalent if the recipe is not what its rung declares to be."""
    exact = device if device.type != "mps" else torch.device("cpu")  # Metal has no float64
    plain = replace(recipe, dtype=torch.float64, compile=False, dropout=0.0)
    error = start_error(plain, exact)
    if error > START:
        raise NotEquivalent(
            f"at its start the logits are off the base's by {error:.1e}, where {START:.0e} is "
            "allowed"
        )
    slope = 0.0
    if recipe.trains != NOTHING:
        slope = max(trains_as_declared(replace(plain, block=b), exact) for b in (Block, MadeAgain))
    merged = merged_errors(recipe, device)
    if recipe.trains != NOTHING and against.numerics is not Numerics.DIFFERENT_WORK:
        refuse_other_training(recipe, against, exact)
    if against.numerics is Numerics.EXACT:
        refuse_other_answers(recipe, against.below, device)
    return StartCheck(
        claim=against.numerics,
        error=error,
        where="logits at the start",
        limit=START,
        formats=("float64", *merged),
        slope_error=slope,
        merged_errors=merged,
    )


def coarse_state(shape: Shape = SHAPE) -> State:
    """Made-up weights of a base, which every format holds."""
    model = GPT(shape, FinetuneRecipe(), shape.vocab_size)
    seed_parameters(model, shape)
    return {name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()}


def made_up_ids(many: int, tokens: int, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SHAPE.vocab_size, (many, tokens), generator=generator)


def small_run(recipe: FinetuneRecipe, device: torch.device, seed: int = 1) -> Tuned:
    """The recipe at its start, over the made-up base."""
    ids = made_up_ids(1, SHAPE.context, seed=7)[0]
    return make_run(recipe, SHAPE, coarse_state(), device, ids, seed)


# -- at the start --


@torch.no_grad()
def start_error(recipe: FinetuneRecipe, device: torch.device) -> float:
    """How far the logits are off the base's before any update, relative."""
    run = small_run(recipe, device)
    ids = made_up_ids(WINDOWS, TOKENS).to(device)
    before = made_up_ids(1, SHAPE.context, seed=7)[0, : run.model.before].to(device)
    due = base_logits(base_as_kept(run).to(device), before, ids)
    return apart(run.model(ids), due)


def base_as_kept(run: Tuned) -> GPT:
    """The base itself, with its weights as the parts keep them: rounded, where they are.

    Raises NotEquivalent where they are kept worse than 4 bits can.
    """
    base = GPT(SHAPE, FinetuneRecipe(), SHAPE.vocab_size)
    base.load_state_dict(coarse_state())
    base.double()
    for name, module in run.model.named_modules():
        if isinstance(module, Mergeable):
            weight = base.get_submodule(name).weight
            if (error := apart(module.base_weight(), weight.to(run.device))) > ROUNDED:
                raise NotEquivalent(f"the base's {name} is kept to {error:.1e} only")
            weight.copy_(module.base_weight())
    return base


def base_logits(base: GPT, before: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The base's logits of ids (B, T) after the tokens `before` (P,), which it reads first.

    Both begin at position 0: what is read before takes none of the window's positions.
    """
    whole = torch.cat([before.expand(len(ids), -1), ids], dim=1)
    places = torch.cat([torch.arange(len(before)), torch.arange(ids.shape[1])]).to(ids.device)
    x = base.token_embedding(whole) + base.position_embedding(places)
    for block in base.blocks:
        x = block(x)
    return base.head(base.final_norm(x))[:, len(before) :]


def apart(own: torch.Tensor, due: torch.Tensor) -> float:
    return ((own - due).norm() / due.norm()).item()


# -- what is trained --


def trains_as_declared(recipe: FinetuneRecipe, device: torch.device) -> float:
    """The error of the slope. Raises NotEquivalent if it is wrong, or other things train."""
    run = small_run(recipe, device)
    windows = made_up_ids(WINDOWS, TOKENS + 1).to(device)
    inputs, targets = windows[:, :-1], windows[:, 1:]
    if not run.objective(inputs, targets).requires_grad:
        raise NotEquivalent(f"the loss does not depend on any of {len(run.start)} trained parts")
    for _ in range(UPDATES):
        train_step(run, inputs, targets)
    run.refuse_unmoved()
    run.refuse_other_base()
    return slope_error(run, inputs, targets)


def slope_error(run: Tuned, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Of the gradient along a line, against the loss's difference. Raises NotEquivalent.

    Here, where no part is 0 any more, each must have a gradient.
    """
    own = trained(run.model)
    run.optimizer.zero_grad()
    run.objective(inputs, targets).backward()
    if without := [name for name, p in own.items() if p.grad is None or not p.grad.any()]:
        raise NotEquivalent(f"{len(without)} of {len(own)} parts get no gradient: {without[0]}")
    generator = torch.Generator().manual_seed(5)
    line = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
        for name, p in own.items()
    }
    length = sum(part.norm().item() ** 2 for part in line.values()) ** 0.5
    line = {name: part / length for name, part in line.items()}
    slope = sum((p.grad * line[name]).sum().item() for name, p in own.items())
    rise = []
    with torch.no_grad():
        for sign in (1, -2):
            for name, parameter in own.items():
                parameter += sign * STEP * line[name]
            rise.append(run.objective(inputs, targets).item())
    error = abs((rise[0] - rise[1]) / (2 * STEP) - slope) / abs(slope)
    if error > SLOPE:
        raise NotEquivalent(f"the gradient is off the loss's slope by {error:.1e}")
    return error


# -- as it is served --


def served_tasks(recipe: FinetuneRecipe, device: torch.device) -> tuple[nn.Module, list[State]]:
    """A model, and two made-up texts' parts for it."""
    run, tasks = small_run(recipe, device), []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        noise = {
            k: torch.randn(p.shape, generator=generator) for k, p in snapshot(run.model).items()
        }
        tasks.append({k: t + AWAY * noise[k].to(t) for k, t in snapshot(run.model).items()})
    return run.model, tasks


@torch.no_grad()
def merged_errors(recipe: FinetuneRecipe, device: torch.device) -> dict[str, float]:
    """By format, of the worst layer; nothing where none is merged. Raises NotEquivalent."""
    found = {}
    for dtype, limit in MERGED.items():
        if dtype is torch.float64 and device.type == "mps":
            continue
        model, (first, second) = served_tasks(replace(recipe, dtype=dtype, compile=False), device)
        serving = recipe.serving(copy.deepcopy(model))
        serving.put(first)
        beside = recipe_beside(model, first)
        error = max((layer_error(part, serving.model, name) for name, part in beside), default=0.0)
        if error > limit:
            raise NotEquivalent(
                f"merged weights answer otherwise than their parts: by {error:.1e} in {dtype}, "
                f"where {limit:.0e} is allowed"
            )
        if recipe.trains != NOTHING:
            refuse_lost_bits(serving, first, second)
        found[str(dtype).removeprefix("torch.")] = error
    return found


def recipe_beside(model: nn.Module, task: State) -> list[tuple[str, Mergeable]]:
    """The parts that may have been merged, with the task's values in them."""
    for name, parameter in trained(model).items():
        parameter.copy_(task[name])
    return [(name, part) for name, part in model.named_modules() if isinstance(part, Mergeable)]


def layer_error(part: Mergeable, served: nn.Module, name: str) -> float:
    """How far the served layer's outputs are from the part's, relative; 0 where it is the part."""
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(64, part.in_features, generator=generator)
    x = x.to(part.base_weight())
    return apart(served.get_submodule(name)(x).double(), part(x).double())


def refuse_lost_bits(serving, first: State, second: State) -> None:
    """From one text to another and back. Raises NotEquivalent if a bit is lost, or none changes.

    A model that cannot change its text must refuse.
    """
    ids = made_up_ids(1, TOKENS).to(next(serving.model.parameters()).device)
    before = serving.model(ids)
    if not serving.switches:
        try:
            serving.put(second)
        except UserError:
            return
        raise NotEquivalent("another text was put into a model that cannot change its text")
    serving.put(second)
    if torch.equal(serving.model(ids), before):
        raise NotEquivalent("after a switch the model answers as before it")
    serving.put(first)
    if not torch.equal(serving.model(ids), before):
        raise NotEquivalent("after a switch and back the model answers otherwise than before")


# -- rungs that leave the training as it is --


def refuse_other_training(recipe: FinetuneRecipe, against: Against, device: torch.device) -> None:
    """Raises NotEquivalent unless updates are bit for bit those of the rung below."""
    found = []
    for one in (recipe, against.below):
        run = small_run(replace(one, dtype=torch.float64, compile=False), device)
        windows = made_up_ids(WINDOWS, TOKENS + 1).to(device)
        for _ in range(UPDATES):
            train_step(run, windows[:, :-1], windows[:, 1:])
        found.append(snapshot(run.model))
    own, below = found
    if own.keys() != below.keys() or not all(torch.equal(own[k], below[k]) for k in own):
        raise NotEquivalent(f"declared {against.numerics.value}, but it trains otherwise")


@torch.no_grad()
def refuse_other_answers(
    recipe: FinetuneRecipe, below: FinetuneRecipe, device: torch.device
) -> None:
    """Raises NotEquivalent unless the served model answers bit for bit as the rung below's."""
    ids, found = made_up_ids(1, TOKENS).to(device), []
    for one in (recipe, below):
        model, tasks = served_tasks(replace(one, compile=False), device)
        serving = one.serving(model)
        serving.put(tasks[0])
        found.append(serving.model(ids))
    if not torch.equal(*found):
        raise NotEquivalent("declared exact, but it answers otherwise than the rung below")
