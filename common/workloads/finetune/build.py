"""From a recipe and the base's weights to a model whose new parts are ready to be trained."""

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import nn

from common.engine.contract import NotEquivalent, NotInEffect
from common.gpt.shape import Shape
from common.gpt.weights import PADDED, load_unpadded_state
from common.workloads.finetune.parts import (
    NOTHING,
    State,
    frozen,
    install,
    load_parts,
    new_names,
    snapshot,
    trained,
)
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.train.build import Run, padded_vocab_size
from common.workloads.train.schedule import Rates
from common.workloads.train.update import Update

SEED_STRIDE = 1_009  # more than there are texts to adapt to


class Idle(torch.optim.Optimizer):
    """Of a model of which nothing is trained; torch's own refuse to have no parameters."""

    def __init__(self, *_, lr: float, **__) -> None:
        super().__init__([torch.zeros(0)], {"lr": lr})

    def step(self, closure=None) -> None:
        pass


@dataclass(slots=True)
class Tuned(Run):
    """A built recipe, with what tells later whether it trained what it should, and that only."""

    base: str = ""  # digest of all that is frozen
    start: State | None = None  # of what is trained

    def unmoved(self) -> list[str]:
        """Names of trained parameters that are as they were at the start."""
        now = trained(self.model)
        return [name for name, before in self.start.items() if torch.equal(now[name], before)]

    def refuse_other_base(self) -> None:
        """Raises NotEquivalent if anything frozen has changed by a bit."""
        if digest(frozen(self.model)) != self.base:
            raise NotEquivalent("weights that are frozen have changed")

    def refuse_unmoved(self) -> None:
        """Raises NotEquivalent if a part that should be trained has not been."""
        if still := self.unmoved():
            raise NotEquivalent(
                f"{len(still)} of {len(self.start)} parts stay as they began: {still[0]}"
            )


def counted_parts(run: Tuned, kind: type, due: int) -> str:
    """What was trained. Raises NotInEffect unless `due` modules of the kind were, and no more."""
    found = [m for m in run.model.modules() if isinstance(m, kind)]
    strange = run.start.keys() - new_names(run.model)
    if len(found) != due or strange or run.unmoved():
        raise NotInEffect(
            f"{len(found)} of {due} parts, {len(run.unmoved())} of {len(run.start)} did not move, "
            f"{len(strange)} of the base's own are trained"
        )
    return f"{due} parts, {sum(t.numel() for t in run.start.values()):,} parameters moved"


def digest(state: State) -> str:
    """SHA-256 over names, formats, and bits."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.view(torch.uint8).numpy())
    return found.hexdigest()


def make_model(
    recipe: FinetuneRecipe, shape: Shape, weights: State, device: torch.device
) -> nn.Module:
    """The base's model, in the recipe's format, with the recipe's parts; they are not begun yet.

    Raises UserError for parts that it cannot have.
    """
    torch.set_float32_matmul_precision(recipe.matmul_precision)
    model = recipe.model(shape, recipe, padded_vocab_size(recipe, shape))
    give(model, weights)
    model.to(device=device, dtype=recipe.dtype)
    install(model, recipe)
    return model


@torch.no_grad()
def give(model: nn.Module, weights: State) -> None:
    """Load the base's weights; GPT-2's own have biases of query, key, and value, too."""
    for name in weights.keys() & {f"{k}.bias" for k, m in model.named_modules() if unbiased(m)}:
        layer = model.get_submodule(name.removesuffix(".bias"))
        layer.bias = nn.Parameter(torch.zeros_like(weights[name]))
    for name in PADDED:
        model.get_parameter(name).zero_()
    own = model.state_dict()
    load_unpadded_state(model, {name: own[name] for name in new_names(model)} | weights)


def unbiased(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.bias is None


def make_run(
    recipe: FinetuneRecipe,
    shape: Shape,
    weights: State,
    device: torch.device,
    ids: torch.Tensor,
    seed: int,
    updates: int = 1,
) -> Tuned:
    """Ready for the first update. `ids`: the beginning of the text, (N,) int64. `updates`: over
    which the learning rate's schedule goes.
    """
    model = make_model(recipe, shape, weights, device)
    begin(model, ids.to(device), seed)
    objective = recipe.objective(model, recipe)
    if recipe.compile:
        (objective if recipe.loss_in_graph else model).compile(mode=recipe.compile_mode)
    optimizer = make_optimizer(recipe, model)
    return Tuned(
        recipe=recipe,
        shape=shape,
        device=device,
        model=model,
        objective=objective,
        optimizer=optimizer,
        rates=Rates(optimizer, recipe.schedule(updates, recipe.warmup)),
        update=Update(recipe, device),
        base=digest(frozen(model)),
        start=snapshot(model),
    )


@torch.no_grad()
def begin(model: nn.Module, ids: torch.Tensor, seed: int) -> None:
    """Start the new parts, from the seed's random numbers, and from the beginning of a text."""
    model.begin(torch.Generator().manual_seed(seed), ids[: model.before])


def make_optimizer(recipe: FinetuneRecipe, model: nn.Module) -> torch.optim.Optimizer:
    """Of what is trained, and nothing else."""
    kind = Idle if recipe.trains == NOTHING else recipe.optimizer
    return kind(
        trained(model).values(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=recipe.fused_optimizer or None,
    )


def begin_again(run: Tuned, base: State, ids: torch.Tensor, seed: int) -> Tuned:
    """The same model at its start, for another text. `base`: what is trained of the base's own.

    Parameters stay where they are, so that nothing is compiled again.
    """
    own = {name: base[name] for name in trained(run.model) if name in base}
    load_parts({name: trained(run.model)[name] for name in own}, own)
    begin(run.model, ids.to(run.device), seed)
    optimizer = make_optimizer(run.recipe, run.model)
    rates = Rates(optimizer, run.rates.schedule)
    return replace(run, optimizer=optimizer, rates=rates, start=snapshot(run.model))


def seed_of(seed: int, task: int) -> int:
    """Of a round's seed and a text's number, one number."""
    return SEED_STRIDE * seed + task
