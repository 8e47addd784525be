"""A rung's docstring is its lesson: its form, and the figures in it that can be computed."""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from common.gpt.model import GELU, LayerNorm, StoredMask
from common.gpt.shape import Shape
from common.workloads.finetune.parts import install, trained
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.generate.caches import Cache
from common.workloads.train.adamw8 import BLOCK
from common.workloads.train.build import build, padded_vocab_size
from common.workloads.train.float8_product import E4M3, E5M2
from common.workloads.train.recipe import Recipe
from ladders.beyond import LADDER as BEYOND
from ladders.compress import LADDER as COMPRESS
from ladders.compress.step12_magnitude import SPARSITY
from ladders.compress.step13_heads_and_neurons import SHARE
from ladders.convergence import LADDER as CONVERGENCE
from ladders.data import LADDER as DATA
from ladders.environment import LADDER as ENVIRONMENT
from ladders.finetune import LADDER as FINETUNE
from ladders.inference import LADDER as INFERENCE
from ladders.inference.step07_int4_weights import GROUPS
from ladders.memory import LADDER as MEMORY
from ladders.own import LADDER as OWN
from ladders.parallel import LADDER as PARALLEL
from steps import LADDER as STEPS

WITH_EXPECTED = (
    *(BEYOND, MEMORY, DATA, INFERENCE, COMPRESS, FINETUNE, CONVERGENCE),
    *(ENVIRONMENT, OWN),
)
LADDERS = (STEPS, PARALLEL, *WITH_EXPECTED)
RUNGS = {rung.module.__name__: rung for ladder in LADDERS for rung in ladder.rungs}
PARTS = ("Changes", r"Why(?: faster| smaller)?", "Cost", "When not", "Source")
GPT2, RECIPE = Shape(), Recipe()


@pytest.mark.parametrize("name", RUNGS)
def test_a_lesson_has_all_its_parts_in_order(name):
    lesson = RUNGS[name].module.__doc__
    title, blank, *lines = lesson.splitlines()
    assert re.fullmatch(r"\d+\. \S.*\.", title)
    assert blank == ""
    expects = any(RUNGS[name] in ladder.rungs for ladder in WITH_EXPECTED)
    parts = PARTS + ("Expected",) * expects
    starts = [re.findall(rf"(?m)^{part}: (?=\S)", lesson) for part in parts]
    assert [len(found) for found in starts] == [1] * len(parts), parts
    places = [lesson.index(f"\n{found[0]}") for found in starts]
    assert places == sorted(places)
    assert max(map(len, (title, *lines))) <= 100
    assert len(lines) <= 16, "a lesson is short"


def mantissa_bits(dtype: torch.dtype) -> int:
    """Stored ones: the implicit first bit is not counted."""
    return -round(math.log2(torch.finfo(dtype).eps))


def causal_mask():
    stored = GPT2.layers * StoredMask(GPT2.context).future.nbytes
    return f"{stored / 2**20:g} MiB in all for GPT-2 at context {GPT2.context}"


def tf32():
    return f"10 bits of mantissa, not {mantissa_bits(torch.float32)}"


def pinned_memory():
    ids = torch.empty(RECIPE.batch_size, GPT2.context, dtype=torch.long)
    return f"Token ids are {ids.nbytes / 2**10:g} KiB a batch"


def bfloat16():
    """Half a spacing is lost; a weight is less than 2^(bits + 1) spacings of its numbers."""
    bits = mantissa_bits(torch.bfloat16)
    lost = 2 ** (bits + 2)
    weights = torch.arange(2**bits, 2 ** (bits + 1)).bfloat16()  # all of a power of 2
    assert torch.equal((weights.double() * (1 + 0.999 / lost)).bfloat16(), weights)
    assert not torch.equal((weights.double() * (1 + 1.01 / lost)).bfloat16(), weights)
    return f"{bits} bits of mantissa. An update of less than 1/{lost} of its weight"


class Passes(TorchFunctionMode):
    """Counts the operations that read a tensor of the given size."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.count = elements, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        named = getattr(func, "__name__", "") not in ("__get__", "dim", "size")
        whole = any(isinstance(x, torch.Tensor) and x.numel() == self.elements for x in args)
        self.count += named and whole
        return func(*args, **kwargs or {})


def native_layers():
    x = torch.randn(64, 32)
    counts = []
    for layer in (LayerNorm(32), GELU()):
        with Passes(x.numel()) as passes:
            layer(x)
        counts.append({6: "six", 8: "eight"}[passes.count])
    x = x.bfloat16()
    for own, native in (
        (LayerNorm(32).bfloat16(), lambda x: F.layer_norm(x, (32,))),
        (GELU(), lambda x: F.gelu(x, approximate="tanh")),
    ):
        exact = native(x.double())
        assert (native(x) - exact).norm() < 0.9 * (own(x) - exact).norm()  # "more accurate, too"
    return "LayerNorm passes over the tensor {} times, GELU {} times".format(*counts)


def vocab_padding():
    """At the initialisation, whose logits have one distribution at any width and depth."""
    recipe = replace(RECIPE, vocab_multiple=64, dropout=0.0)
    run = build(recipe, replace(GPT2, layers=0, emb_dim=64, context=64), torch.device("cpu"))
    ids = torch.randint(GPT2.vocab_size, (4, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = run.model(ids).flatten(0, 1).double()
    gap = logits.logsumexp(-1) - logits[:, : GPT2.vocab_size].logsumexp(-1)
    rows, ids = padded_vocab_size(recipe, GPT2), GPT2.vocab_size
    return (
        f"get {rows:,} rows, a multiple of 64, where the tokenizer has {ids:,} ids",
        f"{rows - ids} columns more",
        f"ln({rows}/{ids}) = {math.log(rows / ids):.4f} nats too high",
        f"at this initialisation it is {gap.mean().item():.4f}",
    )


def chunked_head():
    row = torch.empty(padded_vocab_size(replace(RECIPE, vocab_multiple=64), GPT2))
    return f"float32 logits take {round(row.nbytes, -4) // 1000} KB per token"


def chunked_loss():
    token = 4 * GPT2.vocab_size
    kept = 16 * 4 * GPT2.emb_dim  # of a token in a block, see test_memory's formula
    return f"{token / 1000:.0f} KB per token for GPT-2, as much as {token / kept:.0f} blocks keep"


def eight_bit_moments():
    return f"{2 * (1 + 4 / BLOCK):.2f} bytes a parameter", f"the scale of each {BLOCK}"


def float8():
    e4m3, e5m2 = mantissa_bits(E4M3), mantissa_bits(E5M2)
    assert torch.finfo(E5M2).max > torch.finfo(E4M3).max
    return f"e4m3 ({e4m3} bits of mantissa)", f"e5m2 ({e5m2} bits, more range)"


def kv_cache():
    cache = Cache(GPT2, torch.bfloat16, 1, 256, torch.device("cpu"))
    return f"{cache.reads(256) / 2**20:g} MiB for GPT-2 124M at 256 tokens in bfloat16"


def multi_query():
    """A head of keys and values where there were H; the names are the formula's."""
    many, one = GPT2, replace(GPT2, heads=1, emb_dim=GPT2.emb_dim // GPT2.heads)
    caches = (Cache(shape, torch.bfloat16, 1, 1024, torch.device("cpu")) for shape in (one, many))
    one, many = (cache.reads(1024) / 2**20 for cache in caches)
    return f"for GPT-2 124M at 1,024 tokens in bfloat16 {one:g} MiB, not {many:g}"


def int4_weights():
    """Codes of 4 bits, and two bfloat16 numbers for each group."""
    return f"{4 + 2 * 16 / min(GROUPS):g} bits a weight in groups of {min(GROUPS)}"


def int8_per_channel():
    """Scales of bfloat16, over all of GPT-2's matrices with a tied head."""
    wide = GPT2.emb_dim
    rows = GPT2.layers * (3 + 1 + 4 + 1) * wide + GPT2.vocab_size
    weights = GPT2.layers * 12 * wide**2 + GPT2.vocab_size * wide
    return f"those bits: {16 * rows / weights:.2f} a weight at GPT-2's width"


def int4_in_groups():
    return f"{4 + 2 * 16 / 32:g} bits a weight in groups of 32, {4 + 2 * 16 / 64:g} in groups of 64"


def magnitude():
    return f"{1 + (1 - SPARSITY) * 16:g} bits a weight instead of bfloat16's 16"


def two_of_four():
    return f"{16 / 2 + 2 / 2:g} bits a weight instead of 16"


def heads_and_neurons():
    """Of weights in matrices and positions of GPT-2 124M, whose head is the embedding."""
    heads, neurons = GPT2.heads, 4 * GPT2.emb_dim
    blocks = GPT2.layers * 12 * GPT2.emb_dim**2
    others = (GPT2.vocab_size + GPT2.context) * GPT2.emb_dim
    return (
        f"{heads} to {SHARE * heads:g} heads and {neurons:,} to {SHARE * neurons:,.0f} neurons "
        f"leave {SHARE:.3f} of the blocks",
        f"to {(SHARE * blocks + others) / (blocks + others):.3f} of its weights",
    )


def trained_parameters(number: int) -> int:
    recipe = FINETUNE.compose(FinetuneRecipe(), FINETUNE.chain(number))
    with torch.device("meta"):
        model = recipe.model(GPT2, recipe, GPT2.vocab_size)
        install(model, recipe)
    return sum(parameter.numel() for parameter in trained(model).values())


FIGURES = {
    "ladders.environment.step04_tf32": tf32,
    "ladders.compress.step04_int8_per_channel": int8_per_channel,
    "ladders.compress.step05_int4_in_groups": int4_in_groups,
    "ladders.compress.step12_magnitude": magnitude,
    "ladders.compress.step13_heads_and_neurons": heads_and_neurons,
    "ladders.compress.step16_two_of_four": two_of_four,
    "steps.step01_causal_mask": causal_mask,
    "steps.step02_tf32": tf32,
    "steps.step04_pinned_memory": pinned_memory,
    "steps.step05_bfloat16": bfloat16,
    "steps.step06_native_layers": native_layers,
    "steps.step09_vocab_padding": vocab_padding,
    "ladders.beyond.step03_chunked_head": chunked_head,
    "ladders.beyond.step15_float8": float8,
    "ladders.finetune.step02_adapter": lambda: (
        f"{trained_parameters(2):,} for GPT-2 124M at r = 64"
    ),
    "ladders.finetune.step03_lora_query_value": lambda: f"{trained_parameters(3):,} of GPT-2's",
    "ladders.finetune.step04_lora_everywhere": lambda: f"{trained_parameters(4):,} parameters",
    "ladders.finetune.step07_prefix": lambda: f"2 L P C parameters: {trained_parameters(7):,}",
    "ladders.finetune.step08_prompt": lambda: f"P C parameters: {trained_parameters(8):,}",
    "ladders.inference.step01_kv_cache": kv_cache,
    "ladders.inference.step07_int4_weights": int4_weights,
    "ladders.inference.step10_multi_query": multi_query,
    "ladders.memory.step04_chunked_loss": chunked_loss,
    "ladders.memory.step11_eight_bit_moments": eight_bit_moments,
    "ladders.own.step01_tf32": tf32,
    "ladders.own.step06_native_modules": native_layers,
    "ladders.own.step13_eight_bit_moments": eight_bit_moments,
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_what_the_code_gives(name):
    figures = FIGURES[name]()
    lesson = " ".join(RUNGS[name].module.__doc__.split())
    for figure in (figures,) if isinstance(figures, str) else figures:
        assert figure in lesson
