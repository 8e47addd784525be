"""A recipe says how text is generated. A rung of the ladder `inference` changes its fields."""

from dataclasses import dataclass

import torch

from common.workloads.generate.caches import Cache, Recomputed
from common.workloads.generate.linears import Linear
from common.workloads.generate.model import Attention
from common.workloads.generate.speculation import Draft
from common.workloads.generate.stream import Schedule
from common.workloads.train.recipe import Written


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateRecipe(Written):
    """Every choice that a rung may make, at its plain default. Each field is read in one place."""

    cache: type[Cache] = Recomputed  # what is kept of the tokens so far
    dtype: torch.dtype = torch.float32  # of activations, keys, values, and weights that stay plain
    attention: type[Attention] = Attention  # how new tokens attend to all so far
    heads_per_kv: int = 1  # query heads that share a head of keys and values; 0: all do
    linear: type[Linear] = Linear  # in what format weight matrices are kept and multiplied
    group: int = 0  # weights of a row that share a scale; 0: all, where there is one
    compile: bool = False  # torch.compile the pass of a single token
    compile_mode: str = "default"  # torch.compile's
    requests: int = 1  # that are decoded side by side: B
    schedule: type[Schedule] | None = None  # of a stream; None: requests are all alike
    draft: type[Draft] | None = None  # guesses tokens, of which the model reads several at once
    draft_tokens: int = 0  # guesses for a pass, at most

    @property
    def format(self) -> str:
        """The number format of the weight matrices: "float32", "bfloat16", "int8", "int4"."""
        return self.linear.format or str(self.dtype).removeprefix("torch.")
