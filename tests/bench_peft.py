"""peft as an oracle for LoRA's files: python -m tests.bench_peft

Wants the package peft, which the project does not depend on. What peft saved is read here and gives
peft's logits; what is saved here is read by peft and gives ours; LoRA and DoRA. With --fixture DIR
peft's file is left in DIR with its logits, for tests/test_finetune.py.
"""

import argparse
import tempfile
from pathlib import Path

import peft
import torch

from common.gpt.model import GPT
from common.gpt.shape import Shape
from common.workloads.finetune.build import make_run
from common.workloads.finetune.check import apart, coarse_state
from common.workloads.finetune.files import read_parts, safetensors, save_parts
from common.workloads.finetune.parts import load_parts, snapshot, trained
from common.workloads.finetune.recipe import FinetuneRecipe
from ladders.finetune import METHODS

SHAPE = Shape(layers=1, heads=2, emb_dim=32, context=16, vocab_size=61)
IDS = torch.arange(12)[None]
MOST = 1e-6  # relative, in float32
NO_BASE = "0" * 64


def recipe_of(name: str) -> FinetuneRecipe:
    return METHODS[name](FinetuneRecipe(rank=4, alpha=6.0))


def ours(recipe: FinetuneRecipe):
    return make_run(recipe, SHAPE, coarse_state(SHAPE), torch.device("cpu"), IDS[0], 1).model


def theirs(recipe: FinetuneRecipe):
    model = GPT(SHAPE, FinetuneRecipe(), SHAPE.vocab_size)
    model.load_state_dict(coarse_state(SHAPE))
    config = peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.targets),
        use_dora="DoRA" in recipe.part.__name__,
    )
    return peft.get_peft_model(model, config)


@torch.no_grad()
def stir(model) -> None:
    """Move what is trained away from its start."""
    generator = torch.Generator().manual_seed(4)
    for parameter in trained(model).values():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def from_theirs(name: str, folder: Path) -> tuple[float, torch.Tensor]:
    """How far our logits are from those of what peft saved in the folder, and those."""
    recipe, model = recipe_of(name), theirs(recipe_of(name))
    stir(model)
    model.save_pretrained(str(folder))
    own = ours(recipe)
    parts = read_parts(folder / "adapter_model.safetensors", recipe, NO_BASE)
    load_parts(trained(own), parts)
    due = model(IDS)
    return apart(own(IDS), due), due


@torch.no_grad()
def from_ours(name: str, folder: Path) -> float:
    """How far peft's logits are from those of what we saved in the folder."""
    recipe, model = recipe_of(name), ours(recipe_of(name))
    stir(model)
    save_parts(folder / "adapter_model.safetensors", snapshot(model), recipe, NO_BASE)
    plain = GPT(SHAPE, FinetuneRecipe(), SHAPE.vocab_size)
    plain.load_state_dict(coarse_state(SHAPE))
    read = peft.PeftModel.from_pretrained(plain, str(folder))
    return apart(read(IDS), model(IDS))


def leave(folder: Path) -> None:
    """peft's file and configuration, and the logits that it gives."""
    folder.mkdir(parents=True, exist_ok=True)
    _, logits = from_theirs("lora", folder)
    (folder / "README.md").unlink(missing_ok=True)
    told = {"peft": peft.__version__, "torch": torch.__version__}
    (folder / "logits.safetensors").write_bytes(safetensors({"logits": logits}, told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fixture", type=Path, metavar="DIR")
    options = parser.parse_args()
    for name in ("lora-qv", "lora", "dora"):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            read, given = from_theirs(name, Path(one))[0], from_ours(name, Path(two))
        print(f"{name}: peft {peft.__version__} read here {read:.1e}, ours read there {given:.1e}")
        assert max(read, given) < MOST
    if options.fixture:
        leave(options.fixture)


if __name__ == "__main__":
    main()
