"""Look at a user's model before anything is timed: what it has, and what is wrong with it.

Run in a process of its own, which may hold the device's memory, be killed, or crash:
`python -m common.workloads.own.inspect` reads a job on stdin, and writes one line of JSON.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.utils._pytree import tree_map

from common.engine.errors import UserError, in_short, out_of_memory
from common.engine.workload import Launch
from common.workloads.own.build import SEED
from common.workloads.own.change import with_attention
from common.workloads.own.finding import implementation, repeated, replaceable, to_pad, watched
from common.workloads.own.recipe import About, tupled
from common.workloads.own.settings import Settings
from common.workloads.own.user_file import UserFile, samples, seed_all, tensors

NAMED = 3  # parameters that a sentence names
FUSABLE = ("Adam", "AdamW", "SGD")  # of torch.optim: those that take `fused` on all devices
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def inspected(settings: Settings, batch_size: int, timeout: float) -> About:
    """What the process finds. Raises UserError with its sentence."""
    job = {name: getattr(settings, name) for name in ("file", "module", "device")}
    command, name = [sys.executable, "-m", __name__], Path(settings.file).name
    try:
        done = subprocess.run(
            command,
            input=json.dumps(job | {"batch_size": batch_size}),
            env=Launch().variables(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"--model {name}: one step took longer than --timeout {timeout:g}"
        ) from None
    try:
        told = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        ended = f"its process ended with status {done.returncode}: {last}"
        raise UserError(f"--model {name}: {ended}") from None
    if "error" in told:
        raise UserError(told["error"])
    return About(**{key: tupled(value) for key, value in told.items()})


def main() -> None:
    job = json.loads(sys.stdin.readline())
    answers, sys.stdout = os.dup(1), sys.stderr
    os.dup2(2, 1)  # what the user's code prints must not be taken for the answer
    size, device = job["batch_size"], job["device"]
    try:
        user = UserFile(Path(job["file"]), job["module"])
        told = asdict(look_at(user, device, size))
    except UserError as error:
        told = {"error": str(error)}
    except Exception as error:
        if not out_of_memory(error):
            raise
        name = Path(job["file"]).name
        less = f"try --batch-size {size // 2}" if size > 1 else "even one sample is too much"
        told = {
            "error": f"--model {name}: --batch-size {size} does not fit ({in_short(error)}); {less}"
        }
    os.write(answers, (json.dumps(told) + "\n").encode())


def look_at(user: UserFile, device: str, size: int) -> About:
    """One step of the model as it is. Raises UserError where there is nothing to climb with."""
    seed_all(SEED)
    model = user.model().to(device).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    name = user.path.name
    if not trained:
        raise UserError(f"--model {name}: model() has no parameter that is trained")
    inputs = watched(model)
    batch = user.batch(size, device)
    loss = user.loss(model, batch)
    if not loss.requires_grad:
        raise UserError(
            f"--model {name}: the loss has no gradient; loss(model, batch) must not detach it"
        )
    if not torch.isfinite(loss):
        raise UserError(f"--model {name}: the loss is {loss.item()} at the first step")
    with user.telling("the backward pass"):
        loss.backward()
    obeyed = obeys(user, size, device)
    notes = [*without_gradient(name, trained), *of_batch(user, model, batch)]
    if not obeyed:
        notes.append(
            f"batch({size}, …) does not give {size} samples, so no rung changes the batch: the "
            "first dimension of its tensors must be batch_size"
        )
    optimizer = user.optimizer(model)
    kind, attention = type(optimizer), with_attention(model)
    block, blocks = repeated(model)
    leaves = [part for part in model.modules() if not any(part.children())]
    dtypes = Counter(parameter.dtype for parameter in model.parameters())
    return About(
        name=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(dtypes.most_common(1)[0][0]).removeprefix("torch."),
        obeys_size=obeyed,
        optimizer=kind.__name__,
        has_fused=kind.__module__.startswith("torch.optim") and kind.__name__ in FUSABLE,
        convolutions=sum(isinstance(part, CONVOLUTIONS) for part in leaves),
        products=sum(isinstance(part, (nn.Linear, *CONVOLUTIONS)) for part in leaves),
        batch_norms=sum(isinstance(part, BATCH_NORMS) for part in leaves),
        attention=implementation(attention[0]) if attention else None,
        block=block,
        blocks=tuple(blocks),
        native=tuple(replaceable(model, inputs)),
        padded=tuple(to_pad(model)),
        notes=tuple(notes),
    )


def without_gradient(name: str, trained: dict[str, nn.Parameter]) -> list[str]:
    """Raises UserError where nothing has a gradient, or one is no number."""
    bad = [n for n, p in trained.items() if p.grad is not None and not p.grad.isfinite().all()]
    if bad:
        raise UserError(f"--model {name}: the gradient of {listed(bad)} is not finite at step 0")
    lacking = [n for n, p in trained.items() if p.grad is None]
    if len(lacking) == len(trained):
        raise UserError(f"--model {name}: no parameter has a gradient: the loss does not use them")
    return [f"no gradient reaches {listed(lacking)}"] if lacking else []


def listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def obeys(user: UserFile, size: int, device: str) -> bool:
    """Whether batch() gives as many samples as it is asked for, for two numbers of them."""
    return all(samples(user.batch(n, device)) == n for n in (size, size + 1))


def of_batch(user: UserFile, model: nn.Module, batch) -> list[str]:
    """That the loss is the same for another batch, if it is."""
    losses = []
    for one in (batch, tree_map(upset, batch)):
        seed_all(SEED)
        try:
            with torch.no_grad():
                losses.append(user.loss(model, one).item())
        except UserError:  # so it minds what it is given
            return []
    if losses[0] != losses[1] or not tensors(batch):
        return []
    return [
        "the loss is the same for another batch: it does not depend on its input, and the check "
        "before each rung tells little"
    ]


def upset(leaf):
    """Another tensor like this one: its elements in another order, which stay allowed values."""
    if not isinstance(leaf, torch.Tensor) or leaf.numel() < 2:
        return leaf
    order = torch.randperm(leaf.numel(), generator=torch.Generator().manual_seed(0))
    other = leaf.reshape(-1)[order.to(leaf.device)].view(leaf.shape)
    return other * 1.5 + 0.25 if other.is_floating_point() else other


if __name__ == "__main__":
    main()
