"""Weights in files of others: safetensors, and the names that GPT-2's published weights have.

The format is read without its library: a length, a header of JSON, and the numbers. Source:
huggingface/safetensors, README (format); transformers, modeling_gpt2.py (names, Conv1D).
"""

import json
import math
import re
from pathlib import Path

import torch

from common.engine.errors import UserError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"I8": torch.int8, "U8": torch.uint8}
MOST_HEADER = 100_000_000  # bytes, as the format's own readers have it
# by GPT-2's name: ours, and whether Conv1D keeps it as (inputs, outputs)
OUTSIDE = {
    "wte.weight": "token_embedding.weight",
    "wpe.weight": "position_embedding.weight",
    "ln_f.weight": "final_norm.weight",
    "ln_f.bias": "final_norm.bias",
    "lm_head.weight": "head.weight",
}
INSIDE = {
    "ln_1": ("norm1", False),
    "attn.c_proj": ("attention.out_proj", True),
    "ln_2": ("norm2", False),
    "mlp.c_fc": ("feed_forward.expand", True),
    "mlp.c_proj": ("feed_forward.contract", True),
}
IN_BLOCK = re.compile(r"h\.(\d+)\.(.+)\.(weight|bias)")
FUSED, PARTS = "attn.c_attn", ("W_query", "W_key", "W_value")
STORED_MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # no parameter


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors of DTYPES. Raises ValueError where it is damaged."""
    content = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    if len(content) < 8:
        raise ValueError("it is shorter than its header")
    length = int.from_bytes(bytes(content[:8].tolist()), "little")
    if length > min(MOST_HEADER, len(content) - 8):
        raise ValueError("its header is cut off, or none")
    header = json.loads(bytes(content[8 : 8 + length].numpy()))
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    numbers, found = content[8 + length :], {}
    for name, told in header.items():
        if name != "__metadata__" and told["dtype"] in DTYPES:
            found[name] = tensor_of(numbers, name, told)
    return found


def tensor_of(numbers: torch.Tensor, name: str, told: dict) -> torch.Tensor:
    """One tensor out of the bytes behind the header."""
    dtype, shape = DTYPES[told["dtype"]], [int(size) for size in told["shape"]]
    begin, end = (int(offset) for offset in told["data_offsets"])
    wanted = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or not 0 <= begin <= end <= len(numbers) or end - begin != wanted:
        raise ValueError(f"{name} is cut off, or not of the size that it says")
    own = torch.empty(wanted, dtype=torch.uint8)  # aligned, as the file need not be
    own.copy_(numbers[begin:end])
    return own.view(dtype).reshape(shape)


def from_published(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GPT-2's names to those of this project's GPT. A head that is not told is the embedding.

    Biases of query, key, and value, which this project's model has not, are W_query.bias and so
    on. Raises UserError for a name that GPT-2 has not.
    """
    state = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("transformer.")
        inside = IN_BLOCK.fullmatch(name)
        if STORED_MASK.fullmatch(name):
            continue
        if name in OUTSIDE:
            state[OUTSIDE[name]] = tensor
        elif inside and inside[2] == FUSED:
            across = tensor.t() if inside[3] == "weight" else tensor  # (C, 3 C) to (3 C, C)
            for part, own in zip(PARTS, across.chunk(3), strict=True):
                state[f"blocks.{inside[1]}.attention.{part}.{inside[3]}"] = own
        elif inside and inside[2] in INSIDE:
            part, across = INSIDE[inside[2]]
            turned = tensor.t() if across and inside[3] == "weight" else tensor
            state[f"blocks.{inside[1]}.{part}.{inside[3]}"] = turned
        else:
            raise UserError(f"{full} is no parameter of GPT-2")
    if "token_embedding.weight" in state:
        state.setdefault("head.weight", state["token_embedding.weight"])
    return state
