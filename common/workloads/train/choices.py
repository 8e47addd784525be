"""What a recipe chooses, as far as memory is concerned: what the formula of needs.py reads."""

from dataclasses import dataclass

import torch

from common.gpt.model import GELU, CausalAttention, LayerNorm, StoredMask
from common.gpt.shape import Shape
from common.workloads.train.build import padded_vocab_size
from common.workloads.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Of a recipe. Sizes are bytes."""

    batch: int  # windows of an update
    parts: int = 1  # that they are cut into, one after the other
    weight: int = 4  # bytes
    state: float = 8.0  # bytes for each parameter, of the optimizer
    autocast: bool = False
    checkpointed: bool = False
    rows: int = 0  # tokens of a chunk of the loss; 0: all at once
    keeps_gradients: bool = False
    in_backward: bool = False  # the update
    fused: bool = True  # the optimizer takes nothing for itself
    in_loop: bool = True  # if it is not fused: parameter by parameter
    piece: int = 0  # elements of a parameter that an optimizer takes at a time,
    scratch: int = 0  # and the bytes that it needs for each of them
    plain_norm: bool = False
    plain_activation: bool = False
    plain_attention: bool = False
    dropout: bool = False
    stored_mask: bool = False
    vocab_size: int = 50_257

    @classmethod
    def of(cls, recipe: Recipe, shape: Shape, device_type: str = "cpu") -> "Choices":
        """Of a recipe as `build` takes it."""
        weight = recipe.dtype.itemsize
        adamw = recipe.optimizer is torch.optim.AdamW
        return cls(
            batch=recipe.batch_size,
            parts=recipe.accumulation,
            weight=weight,
            state=2 * weight if adamw else recipe.optimizer.state_bytes,
            autocast=recipe.autocast is not None,
            checkpointed=recipe.block.recomputed,
            rows=recipe.loss_rows,
            keeps_gradients=recipe.keep_gradients,
            in_backward=recipe.in_backward,
            fused=recipe.fused_optimizer or not adamw,
            in_loop=device_type == "cpu",
            piece=0 if adamw else recipe.optimizer.piece,
            scratch=0 if adamw else recipe.optimizer.scratch_bytes,
            plain_norm=recipe.norm is LayerNorm,
            plain_activation=recipe.activation is GELU,
            plain_attention=recipe.attention is CausalAttention,
            dropout=recipe.dropout > 0,
            stored_mask=recipe.mask is StoredMask,
            vocab_size=padded_vocab_size(recipe, shape),
        )
