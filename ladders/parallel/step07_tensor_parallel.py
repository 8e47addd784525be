"""7. Tensor parallel.

Changes: every matrix product is split: attention by heads, the feed-forward layer by columns and
rows, embedding and output layer by the vocabulary. All processes see the same windows.
Why: weights, optimizer state, and the activations inside these layers shrink to one n-th, and a
single window trains on n devices.
Cost: two all-reduces of the activations in each block and direction. The next layer needs the
result, so its computation cannot overlap with them. What lies between the layers (norms, residuals)
is whole in every process, and so is the embedding's gradient.
When not: between machines; it needs the fastest links there are.
Source: Shoeybi et al. 2019, Megatron-LM, arXiv:1909.08053; torch's DTensor.
"""

from dataclasses import replace

from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    loss_parallel,
    parallelize_module,
)

from common.engine.contract import NotInEffect, Numerics
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import ParallelRecipe, WholeProducts

BASE = 0
CHANGES = ("tensor", "products")
NUMERICS = Numerics.ROUNDING


class TensorParallel(WholeProducts):
    """Columns of the first product of a pair, rows of the second: one all-reduce for both."""

    @staticmethod
    def wrap(model: nn.Module, mesh) -> None:
        for block in model.blocks.children():
            plan = {
                "attention.W_query": ColwiseParallel(),
                "attention.W_key": ColwiseParallel(),
                "attention.W_value": ColwiseParallel(),
                "attention.out_proj": RowwiseParallel(),
                "feed_forward.expand": ColwiseParallel(),
                "feed_forward.contract": RowwiseParallel(),
            }
            parallelize_module(block, mesh, plan)
            block.attention.heads //= mesh.size()  # those of this process
        ends = {  # a pipeline's stages may have one or neither
            "token_embedding": RowwiseParallel(input_layouts=Replicate()),
            "head": ColwiseParallel(use_local_output=False),  # logits stay where they are made
        }
        ends = {name: plan for name, plan in ends.items() if getattr(model, name) is not None}
        parallelize_module(model, mesh, ends)

    @staticmethod
    def loss():
        return loss_parallel()  # a softmax over logits whose columns are on several processes


def applies(device, recipe: ParallelRecipe) -> str | None:
    return None


def in_effect(run: ParallelRun) -> str:
    block = next(iter(run.inner.blocks.children()))
    weight = block.attention.W_query.weight
    if not isinstance(weight, DTensor) or "tensor" not in weight.device_mesh.mesh_dim_names:
        raise NotInEffect("the query projection is whole")
    return f"{block.attention.heads} of {run.shape.heads} heads"


def apply(recipe: ParallelRecipe) -> ParallelRecipe:
    return replace(recipe, tensor=recipe.devices, products=TensorParallel)
