"""Before a rung is timed: is the model that runs the one that its file defines?

On a small shape, from random weights: the recipe makes a file, and the model built from it reads
fixed tokens, in one piece, one by one, and in chunks. Its logits are compared with those of the
file's tensors by their definition, in float64 and without kernels, to the limit of the activations'
format. What only rounds is held to the uncompressed model, too, and what was rebuilt with fewer
heads and neurons to the whole one with these masked.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch

from common.engine.contract import NotEquivalent, Numerics
from common.engine.job import Against
from common.engine.workload import Check
from common.gpt.shape import Shape
from common.gpt.text import Windows
from common.workloads.compress.base import Base
from common.workloads.compress.compressing import Compressed, compressed
from common.workloads.compress.model import Cache, Model, of_parts
from common.workloads.compress.parts import parts_of
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.settings import Settings
from common.workloads.compress.training import started, state_of, train

# widths that every group divides, a vocabulary that no kernel's multiple does
SHAPE = Shape(layers=2, heads=4, emb_dim=128, context=32, vocab_size=509)
CHUNKS = (7, 1, 1, 5, 1, 3)  # tokens
SEED, STEPS = 5, 4  # of the training, so that there is an early state to rewind to
# The worst relative error of a position's logits; about ten times what a right rung showed.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-1}
# of the uncompressed model's logits, by what is declared to round only: twice what 4 bits showed,
FEWER_BITS = 0.5  # and twice as much for each bit less
# an activation that lies between two codes may take the other one than in float64
WHOLE_INPUTS = {torch.float32: 2e-2, torch.bfloat16: 2e-1}


@dataclass(frozen=True, kw_only=True)
class FileCheck(Check):
    """`error`: against the file's own definition."""

    float32_error: float  # likewise, with activations in float32, where little rounding hides
    rounding_error: float  # against the uncompressed model


@functools.cache
def small_base() -> Base:
    """Trained for a few steps on made-up tokens."""
    ids = np.random.default_rng(SEED).integers(SHAPE.vocab_size, size=2000).astype(np.uint16)
    windows, model, early = Windows(ids, SHAPE.context), started(SHAPE, SEED), {}
    train(model, windows, STEPS, at={1: lambda: early.update(state_of(model))})
    calibration = [torch.cat([windows[n][0], windows[n][1][-1:]]) for n in range(8)]
    return Base(SHAPE, coarse(state_of(model)), windows, calibration, "check", early=early)


def coarse(state: dict) -> dict:
    """Parameters that every format can hold, with biases that count and rows of uneven size."""
    generator, found = torch.Generator().manual_seed(SEED), {}
    for name, parameter in state.items():
        if parameter.dim() == 2:
            sizes = 2 + 6 * torch.rand(len(parameter), 1, generator=generator)
            found[name] = parameter * sizes
        elif name.endswith("bias"):
            found[name] = 0.3 * torch.randn(parameter.shape, generator=generator)
        else:
            found[name] = parameter
    found["head.weight"] = found["token_embedding.weight"]
    return {name: parameter.bfloat16().float() for name, parameter in found.items()}


def check(
    recipe: CompressRecipe, against: Against, settings: Settings, device: torch.device
) -> FileCheck:
    """Raises NotEquivalent if the recipe's model is not what its rung declares."""
    base, claim = small_base(), against.numerics
    settings = replace(
        settings, shape=SHAPE, base_steps=STEPS, tune_steps=2, budget_bytes=None, windows=2
    )
    packed = compressed(base, recipe, settings)
    model = packed.model(recipe.dtype, device)
    own, due = answers(model), definition(packed)
    whole = any(name.endswith("input_scale") for name in packed.tensors)
    limits = WHOLE_INPUTS if whole else LIMITS
    error, where = worst(own, due)
    refuse(error, limits[recipe.dtype], where, "those that its file defines")
    float32_error, _ = worst(answers(packed.model(torch.float32, device)), due)
    refuse(float32_error, limits[torch.float32], where, "those that its file defines, in float32,")
    plain = definition(compressed(base, against.baseline, settings))
    rounding_error, _ = worst(due, plain)
    if claim is Numerics.EXACT and rounding_error:
        raise NotEquivalent("declared exact, but its weights are others")
    if claim is not Numerics.DIFFERENT_WORK:
        fewer = FEWER_BITS * 2 ** (4 - recipe.bits)
        most = LIMITS[recipe.dtype] if claim is Numerics.ROUNDING else fewer
        refuse(rounding_error, most, where, "the uncompressed model's")
    if (kept := recipe.pruning.kept(base, recipe)) is not None:
        refuse(*masked_error(base, recipe, kept), where, "those of the model with masks")
    return FileCheck(
        claim=claim,
        error=error,
        where=where,
        limit=limits[recipe.dtype],
        formats=tuple(dict.fromkeys(packed.told["formats"].values())),
        float32_error=float32_error,
        rounding_error=rounding_error,
    )


def made_up() -> torch.Tensor:
    """(1, tokens) ids."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(SHAPE.vocab_size, (1, sum(CHUNKS)), generator=generator)


def answers(model: Model) -> dict[str, torch.Tensor]:
    """Logits of every position (tokens, V), float64, by how the tokens were read."""
    ids, cache, parts, begin = made_up().to(model.positions.device), Cache(model, 1, 32), [], 0
    for size in CHUNKS:
        parts.append(model(ids[:, begin : begin + size], cache))
        begin += size
    found = {"in one piece": model(ids), "in chunks": torch.cat(parts, dim=1)}
    return {name: logits[0].cpu().double() for name, logits in found.items()}


def definition(packed: Compressed) -> dict[str, torch.Tensor]:
    return dict.fromkeys(("in one piece", "in chunks"), packed.exact()(made_up())[0])


def masked_error(base: Base, recipe: CompressRecipe, kept) -> tuple[float, float]:
    """How far the rebuilt model is from the whole one with masks, both float32, and the limit."""
    parts = parts_of(recipe.training.trained(base, recipe, None), SHAPE.heads)
    small, whole = of_parts(parts.without(kept)), of_parts(parts)
    for block, (heads, neurons) in zip(whole.blocks, kept, strict=True):
        mask_heads, mask_neurons = torch.zeros(SHAPE.heads, 1), torch.zeros(4 * SHAPE.emb_dim)
        mask_heads[heads], mask_neurons[neurons] = 1, 1
        block.out_proj.register_forward_pre_hook(masking(mask_heads, SHAPE.heads))
        block.contract.register_forward_pre_hook(masking(mask_neurons[:, None], len(mask_neurons)))
    error, _ = worst(answers(small), answers(whole))
    return error, LIMITS[torch.float32]


def masking(mask: torch.Tensor, parts: int):
    """A hook that multiplies what a matrix reads, in so many parts (..., parts, width)."""

    def hook(layer, given):
        return ((given[0].unflatten(-1, (parts, -1)) * mask).flatten(-2),)

    return hook


def worst(own: dict, due: dict) -> tuple[float, str]:
    """The largest relative error of a position's logits, and how it was read."""
    errors = {
        name: ((own[name] - one).norm(dim=-1) / one.norm(dim=-1)).nan_to_num(torch.inf).max().item()
        for name, one in due.items()
    }
    where = max(errors, key=errors.get)
    return errors[where], where


def refuse(error: float, limit: float, where: str, whose: str) -> None:
    if error > limit:
        raise NotEquivalent(
            f"its logits differ from {whose} by {error:.1e}, where {limit:.1e} is allowed ({where})"
        )
