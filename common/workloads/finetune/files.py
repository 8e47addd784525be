"""A text's parts in a file: safetensors, written without its library.

LoRA's have the names that peft gives them, `base_model.model.LAYER.lora_A.weight`, and its
adapter_config.json beside them; other parts have their own. The file names its base by a hash.
Source: huggingface/safetensors, README (format); huggingface/peft, src/peft/utils/save_and_load.py.
"""

import json
import re
from pathlib import Path

import torch

from common.engine.errors import UserError
from common.engine.records import is_file, write_atomically
from common.gpt.weights import in_short
from common.workloads.finetune.parts import State
from common.workloads.generate.published import DTYPES, FUSED, INSIDE, PARTS, read_safetensors

PEFT = "base_model.model."
MATRICES = (".lora_A", ".lora_B")  # that peft has as layers, each with a weight
CONFIG = "adapter_config.json"
IN_GPT2 = re.compile(r"transformer\.h\.(\d+)\.(.+)\.(lora_[AB])")
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def to_peft(task: State) -> State:
    """The names that peft gives to LoRA's parts; others keep theirs."""
    return {peft_name(name): tensor for name, tensor in task.items()}


def peft_name(name: str) -> str:
    if ".lora_" not in name:
        return name
    return f"{PEFT}{name}.weight" if name.endswith(MATRICES) else f"{PEFT}{name}"


def from_peft(task: State) -> State:
    """The inverse of `to_peft`; layers may also have GPT-2's published names."""
    found = {}
    for name, tensor in task.items():
        bare = name.removeprefix(PEFT)
        short = bare.removesuffix(".weight")
        found |= of_published(short if short.endswith(MATRICES) else bare, tensor)
    return found


def of_published(name: str, tensor: torch.Tensor) -> State:
    """What a part of GPT-2's own layers is here, where query, key, and value are three layers.

    They share one A; the rows of B are theirs, one after the other.
    """
    inside = IN_GPT2.fullmatch(name)
    if inside is None:
        return {name: tensor}
    layer, own, matrix = inside.groups()
    if own == FUSED:
        rows = tensor.chunk(3) if matrix == "lora_B" else (tensor,) * 3
        names = (f"blocks.{layer}.attention.{part}.{matrix}" for part in PARTS)
        return dict(zip(names, rows, strict=True))
    return (
        {f"blocks.{layer}.{INSIDE[own][0]}.{matrix}": tensor} if own in INSIDE else {name: tensor}
    )


def safetensors(tensors: State, told: dict[str, str]) -> bytes:
    """A file's bytes: the header's length, the header, padded to 8 bytes, and the numbers."""
    header: dict = {"__metadata__": told}
    begin, parts = 0, []
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        end = begin + tensor.nbytes
        offsets = {"shape": list(tensor.shape), "data_offsets": [begin, end]}
        header[name] = {"dtype": NAMES[tensor.dtype], **offsets}
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def config_of(recipe) -> dict:
    """What peft must know of LoRA's parts to put them into this project's model."""
    return {
        "peft_type": "LORA",
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": "DoRA" in recipe.part.__name__,
        "target_modules": list(recipe.targets),
    }


def save_parts(path: Path, task: State, recipe, base: str) -> None:
    """Write the parts, and peft's configuration beside them where they are LoRA's.

    `base`: the digest of the base's weights. Raises UserError where they cannot be written.
    """
    lora = any(".lora_" in name for name in task)
    told = {"base_sha256": base, "rank": str(recipe.rank), "alpha": str(recipe.alpha)}
    try:
        write_atomically(path, safetensors(to_peft(task), told))
        if lora:
            text = json.dumps(config_of(recipe), indent=2) + "\n"
            write_atomically(path.with_name(CONFIG), text.encode())
    except OSError as error:
        raise UserError(f"--save {path}: cannot be written ({error.strerror})") from error


def read_parts(path: Path, recipe, base: str) -> State:
    """The parts in a file. Raises UserError where they are damaged, or for another base or scale.

    A file that names no base, as peft's own do not, is taken for any whose layers fit.
    """
    if not is_file(path):
        raise UserError(f"--parts {path}: no such file; safetensors of a finetuning are needed")
    try:
        task, told = read_safetensors(path), metadata(path)
    except Exception as error:  # whatever damage happens to cause
        raise UserError(f"--parts {path}: no safetensors ({in_short(error)})") from error
    theirs = told.get("base_sha256", base)
    if theirs != base:
        raise UserError(
            f"--parts {path}: made for the base {theirs[:12]}, and this one is {base[:12]}; give "
            "the --weights that they were made with"
        )
    for name, own in (("rank", recipe.rank), ("alpha", recipe.alpha)):
        if float(found := scale_told(path, told, name, own)) != own:
            raise UserError(f"--parts {path}: made with {name} {found}, and {own:g} is asked for")
    return from_peft(task)


def scale_told(path: Path, told: dict, name: str, own: float):
    """Rank or alpha as the file has it, or peft's configuration beside it."""
    if name in told:
        return told[name]
    config = path.with_name(CONFIG)
    if not is_file(config):
        return own
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        return float(values[{"rank": "r", "alpha": "lora_alpha"}[name]])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"--parts {path}: {CONFIG} beside it is damaged") from error


def metadata(path: Path) -> dict:
    """What a file tells beside its tensors."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header.get("__metadata__", {})
