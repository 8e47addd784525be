"""A draft model's weights: trained as the base model is, on the same text, or of a file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common.engine.errors import UserError
from common.gpt.shape import Shape
from common.workloads.generate.base import Weights, fitting, read_file, weights_for
from common.workloads.generate.model import State
from common.workloads.generate.settings import Settings


def smaller(shape: Shape) -> Shape:
    """A sixth of the layers and a quarter of the width, of which the head costs most.

    GPT-2 124M reads 124 million weights for a token, this one 10 million.
    """
    heads = max(1, shape.heads // 4)
    width = max(1, shape.emb_dim // 4 // heads) * heads
    return replace(shape, layers=max(1, shape.layers // 6), heads=heads, emb_dim=width)


def draft_weights(
    settings: Settings, say: Callable[[str], None] | None = None
) -> tuple[Shape, State] | None:
    """Shape and parameters; None where the model's own weights tell of no training.

    Raises UserError for a file that cannot be had, or that does not fit the model.
    """
    if settings.draft is not None:
        return read_draft(settings)
    if not settings.base_steps:
        return None
    shape = smaller(settings.shape)
    found: Weights = weights_for(replace(settings, shape=shape), say)
    return shape, found.state


def read_draft(settings: Settings) -> tuple[Shape, State]:
    def fit(state: State) -> tuple[Shape, State]:
        shape = shape_of(state, settings)
        return shape, fitting(state, shape)

    return read_file("--draft", Path(settings.draft), fit)


def shape_of(state: State, settings: Settings) -> Shape:
    """A draft's shape by its parameters; its heads are as wide as the model's.

    Raises UserError where it cannot guess for the model.
    """
    whole, needed = settings.shape, settings.prompt_tokens + settings.new_tokens
    tables = [state.get(f"{name}_embedding.weight") for name in ("token", "position")]
    if any(table is None or table.dim() != 2 for table in tables):
        raise UserError("weights without embeddings of tokens and positions")
    (vocabulary, width), (context, _) = (table.shape for table in tables)
    if vocabulary != whole.vocab_size:
        raise UserError(
            f"a draft of another vocabulary: {vocabulary:,} tokens, and the model has "
            f"{whole.vocab_size:,}"
        )
    if context < needed:
        raise UserError(f"a draft with a context of {context}: {needed} are needed")
    if width % (head := whole.emb_dim // whole.heads):
        raise UserError(f"a draft of width {width}: not made of heads of {head}, as the model has")
    layers = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    return replace(whole, layers=layers, heads=width // head, emb_dim=width, context=context)
