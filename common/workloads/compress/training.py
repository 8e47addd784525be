"""Training as rungs need it: from a start or going on, with weights rounded or masked on the way.

One schedule for all, so that whoever trains as long has trained the same way.
"""

import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from common.engine.contract import DoesNotApply
from common.gpt.model import GPT
from common.gpt.shape import Shape
from common.gpt.text import Endless, Windows
from common.workloads.compress.parts import POSITIONS, State
from common.workloads.generate.base import RECIPE

TOKENS = 128  # in a step, at least: more would make its logits fresh memory each time
RATE, WIDTH = 6e-3, 32  # the highest learning rate at that width; it falls with the root
TUNING = 0.1  # of that rate, when a trained model goes on
WARM_UP = 20  # steps
DATA_SEED = 17
EVERY_S = 2.0  # between two words on how far it is
Say = Callable[[str], None]


class TiedGPT(GPT):
    """The head is the embedding, as in GPT-2's own weights."""

    def __init__(self, shape, recipe, vocab_size: int) -> None:
        super().__init__(shape, recipe, vocab_size)
        self.head.weight = self.token_embedding.weight


def started(shape: Shape, seed: int) -> GPT:
    """A model before its training, as GPT-2 begins: weights from N(0, 0.02)."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = TiedGPT(shape, RECIPE, shape.vocab_size)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
    return model


def model_of(state: State, shape: Shape) -> GPT:
    """A model that trains on from these parameters. Its head is tied where theirs is.

    Raises DoesNotApply for weights that this project's GPT has not.
    """
    if any(name.endswith("W_query.bias") for name in state):
        raise DoesNotApply("weights with biases of query, key, and value are not trained on here")
    tied = torch.equal(state["head.weight"], state["token_embedding.weight"])
    model = (TiedGPT if tied else GPT)(shape, RECIPE, shape.vocab_size)
    model.load_state_dict(state)
    return model


def matrices(model: GPT) -> dict[str, nn.Parameter]:
    """The weight matrices by name, a tied head not apart."""
    named = model.named_parameters()
    return {name: p for name, p in named if p.dim() == 2 and name != POSITIONS}


def state_of(model: GPT) -> State:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def train(
    model: GPT,
    windows: Windows,
    steps: int,
    share: float = 1.0,
    done: int = 0,
    rounded: Callable[[nn.Parameter], torch.Tensor] | None = None,
    masks: Mapping[str, torch.Tensor] | None = None,
    at: Mapping[int, Callable[[], None]] | None = None,
    say: Say = lambda line: None,
) -> None:
    """Train in place, from step `done` of so many on: warm-up, then down to a tenth of the rate.

    `share`: of the usual rate.
    `rounded`: what of each matrix the forward pass reads. `masks`: 0 where a matrix's weights stay
    zeros. `at`: what is called after a step. The windows' order is that of whoever began at 0.
    """
    context = windows.context
    batch = max(1, TOKENS // context)
    rate = share * RATE * (WIDTH / model.token_embedding.embedding_dim) ** 0.5
    order, own = iter(Endless(windows, DATA_SEED)), matrices(model)
    masked = [(own[name], mask) for name, mask in (masks or {}).items()]
    for _ in range(done * batch):
        next(order)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1, fused=True)
    begin = told_at = time.perf_counter()
    for step in range(done + 1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(step / WARM_UP, 1 - 0.9 * step / steps)
        pairs = [windows[next(order)] for _ in range(batch)]
        inputs, targets = (torch.stack(part) for part in zip(*pairs, strict=True))
        seen = {name: rounded(p) for name, p in own.items()} if rounded else {}
        logits = functional_call(model, seen, (inputs,))
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for parameter, mask in masked:
                parameter.mul_(mask)
        if at and step in at:
            at[step]()
        now = time.perf_counter()
        if now - told_at > EVERY_S or step == steps:
            left_s = (now - begin) / (step - done) * (steps - step)
            say(f"step {step} of {steps}, loss {loss.item():.2f}, {left_s:.0f} s left")
            told_at = now


def to_stderr(what: str) -> Say:
    return lambda line: print(f"{what}: {line}", file=sys.stderr, flush=True)
