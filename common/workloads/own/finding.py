"""What a rung could change in a user's model: blocks, hand-written modules, wide heads."""

import torch
from torch import nn

from common.workloads.own.change import MULTIPLE
from common.workloads.own.native import hand_written, recognised

WIDE = 1000  # rows from which on a head is worth padding
NEARLY = 0.9  # of the most parameters: of such groups of blocks the one with the most blocks


def watched(model: nn.Module) -> dict[nn.Module, torch.Tensor]:
    """What those modules get that may be hand-written norms and activations, once it has run."""
    inputs: dict[nn.Module, torch.Tensor] = {}

    def see(module: nn.Module, given: tuple) -> None:
        if len(given) == 1 and isinstance(given[0], torch.Tensor) and given[0].ndim > 1:
            inputs.setdefault(module, given[0].detach())

    for part in filter(hand_written, model.modules()):
        part.register_forward_pre_hook(see)
    return inputs


def replaceable(model: nn.Module, inputs: dict[nn.Module, torch.Tensor]) -> list[tuple]:
    """By name: those that torch has, and how."""
    known: dict = {}
    found = []
    for name, part in model.named_modules(remove_duplicate=False):
        if part not in inputs:
            continue
        plain = [(k, v) for k, v in vars(part).items() if isinstance(v, int | float | str)]
        alike = type(part), tuple(plain), inputs[part].shape
        if alike not in known:
            part._forward_pre_hooks.clear()  # a copy is tried
            known[alike] = recognised(part, inputs[part])
        if known[alike]:
            found.append((name, *known[alike]))
    return found


def repeated(model: nn.Module) -> tuple[str, list[str]]:
    """The class of the repeated block, and the names of all: most of the parameters are in them."""
    groups: dict[type, list[str]] = {}
    for name, part in model.named_modules():
        kind = type(part)
        inside = any(name.startswith(f"{other}.") for other in groups.get(kind, ()))
        if any(part.children()) and kind is not nn.ModuleList and not inside and name:
            groups.setdefault(kind, []).append(name)
    sizes = {
        kind: sum(p.numel() for name in names for p in model.get_submodule(name).parameters())
        for kind, names in groups.items()
        if len(names) > 1
    }
    near = [kind for kind, size in sizes.items() if size >= NEARLY * max(sizes.values())]
    if not near:
        return "", []
    best = max(near, key=lambda kind: len(groups[kind]))
    return best.__name__, groups[best]


def implementation(part: nn.Module) -> str:
    return str(getattr(getattr(part, "config", None), "_attn_implementation", ""))


def to_pad(model: nn.Module) -> list[str]:
    """Wide heads whose rows are not in 64s, and embeddings that share their weights."""
    heads = [
        (name, part)
        for name, part in model.named_modules()
        if type(part) is nn.Linear and part.out_features >= WIDE and part.out_features % MULTIPLE
    ]
    weights = {id(part.weight) for _, part in heads}
    tied = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Embedding) and id(part.weight) in weights
    ]
    return [name for name, _ in heads] + tied
