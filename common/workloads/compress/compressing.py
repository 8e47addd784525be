"""From a base model and a recipe to a file: what rungs change, in the order in which it is done."""

import contextlib
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from common.engine.machine import cache_dir
from common.engine.records import is_file, write_atomically
from common.workloads.compress import files
from common.workloads.compress.base import Base, hashed
from common.workloads.compress.calibration import Statistics
from common.workloads.compress.model import Model, built, file_of, matrix_bytes
from common.workloads.compress.parts import parts_of
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.compress.settings import Settings

KEEP_S = 3.0  # what took longer is kept in the cache


@dataclass(frozen=True, eq=False)
class Compressed:
    """A model's file, as it was read back, and what is told of it."""

    tensors: Mapping[str, torch.Tensor]
    metadata: dict[str, str]
    file_bytes: int
    told: dict  # seconds, and what the recipe's parts say of their work

    @property
    def bits_per_weight(self) -> float:
        """With scales, offsets, and masks; biases, norms, and positions are no part of it."""
        return 8 * matrix_bytes(self.tensors, self.metadata) / self.told["weights"]

    def model(self, dtype: torch.dtype, device) -> Model:
        return built(self.tensors, self.metadata, dtype, device)

    def exact(self) -> Model:
        """In float64, of what the file's tensors stand for, without kernels."""
        return built(self.tensors, self.metadata, torch.float64, "cpu", exact=True)


def made(base: Base, recipe: CompressRecipe, settings: Settings) -> tuple[dict, dict, dict]:
    """The file's tensors and metadata, and what is told. The order is the documentation."""
    begin, told = time.perf_counter(), {}
    parts = parts_of(recipe.training.trained(base, recipe, settings), base.shape.heads)
    if (kept := recipe.pruning.kept(base, recipe)) is not None:
        parts = parts.without(kept)
        told["kept"] = [[len(numbers) for numbers in layer] for layer in kept]
    scaled = recipe.scaling.scaled(parts, Statistics(parts, base.calibration).maker, recipe)
    same = (torch.equal(weight, scaled.matrices[k]) for k, weight in parts.matrices.items())
    told["scaled"], parts = len(parts.matrices) - sum(same), scaled
    inputs = Statistics(parts, base.calibration).maker
    recipes = recipe.choice.recipes(parts, recipe, base, settings, told)
    tensors, metadata = file_of(parts, recipes, inputs)
    told["formats"] = {name: own.format.named(own) for name, own in recipes.items()}
    told["weights"] = sum(weight.numel() for weight in parts.matrices.values())
    return tensors, metadata, told | {"compress_s": time.perf_counter() - begin}


def compressed(base: Base, recipe: CompressRecipe, settings: Settings) -> Compressed:
    """What a recipe makes of the base, through a file. What took long is kept in the cache."""
    path = kept_path(base, recipe, settings)
    if (found := read_kept(path)) is not None:
        return found
    tensors, metadata, told = made(base, recipe, settings)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "model.safetensors"
        size = files.write(whole, tensors, metadata)
        result = Compressed(*files.read(whole), size, told)
    if told["compress_s"] > KEEP_S:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs seconds only
            files.write(path, tensors, metadata)
            write_atomically(about(path), json.dumps(told).encode())
    return result


def kept_path(base: Base, recipe: CompressRecipe, settings: Settings) -> Path:
    """Where it is kept: by the base, the recipe, what is trained, and the code of all of it."""
    values = recipe.to_json()
    names = {value.rpartition(".")[0] for value in values.values() if isinstance(value, str)}
    folders = {Path(sys.modules[name].__file__).parent for name in names if name in sys.modules}
    ours = sorted(path for folder in folders for path in folder.glob("*.py"))
    facts = {
        "base": base.key,
        "recipe": values,
        "steps": (settings.base_steps, settings.tune_steps),
        "budget": settings.budget_bytes,
        "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in ours],
    }
    return cache_dir() / f"compressed-{hashed(facts)[:16]}.safetensors"


def about(path: Path) -> Path:
    return path.with_suffix(".json")


def read_kept(path: Path) -> Compressed | None:
    """None where it is not there, or damaged."""
    if not is_file(path) or not is_file(about(path)):
        return None
    try:
        told = json.loads(about(path).read_bytes())
        return Compressed(*files.read(path), path.stat().st_size, told)
    except (ValueError, KeyError, OSError):
        return None
