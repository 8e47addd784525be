"""Workloads by name: shape, batch, and how many steps to time."""

from dataclasses import dataclass

from common.engine.device import DeviceFacts
from common.gpt.shape import Shape
from common.workloads.train.recipe import Recipe

# GPT-2 124M: the published baseline reserves 26.3 GiB at batch 8 (results/published_a100.csv), of
# which weights, gradients, and moments are 2.4; the rest grows with the batch.
GPT2_FIXED_GIB, GPT2_GIB_PER_WINDOW = 2.5, 3.0


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named workload."""

    shape: Shape
    batch_size: int
    dropout: float
    steps: int
    warmup: int
    search_s: float  # for the search of the largest batch, on a CPU
    note: str = ""

    def __str__(self) -> str:
        shape = self.shape
        return (
            f"{shape.layers} layers, {shape.heads} heads, width {shape.emb_dim}, "
            f"context {shape.context}, batch {self.batch_size}"
        )


NO_DROPOUT = "dropout 0, because torch's fused attention for CPUs does not run with dropout"

PRESETS = {
    "gpt2": Preset(shape=Shape(), batch_size=8, dropout=0.1, steps=50, warmup=20, search_s=600.0),
    # GPT-2 355M and 774M: Radford et al. 2019, table 2, with the heads of 64 columns that its
    # published weights have. Batches at which the plain baseline needs 38 and 39 GiB of tensors
    # (counted under FakeTensor, common/memory/fake.py); gpt2's needs 30
    "gpt2-medium": Preset(
        shape=Shape(layers=24, heads=16, emb_dim=1024),
        batch_size=4,
        dropout=0.1,
        steps=50,
        warmup=20,
        search_s=600.0,
    ),
    "gpt2-large": Preset(
        shape=Shape(layers=36, heads=20, emb_dim=1280),
        batch_size=2,
        dropout=0.1,
        steps=50,
        warmup=20,
        search_s=600.0,
    ),
    # nanoGPT's small GPT (config/train_shakespeare_char.py), with GPT-2's vocabulary: heads of 64
    # columns, as GPT-2's own. A dozen processes fit 16 GiB, and all take a step within 5 s.
    "cpu": Preset(
        shape=Shape(layers=6, heads=6, emb_dim=384, context=256),
        batch_size=1,
        dropout=0.0,
        steps=5,
        warmup=2,
        search_s=15.0,
        note=NO_DROPOUT,
    ),
    "tiny": Preset(
        shape=Shape(layers=2, heads=2, emb_dim=32, context=64),
        batch_size=2,
        dropout=0.0,
        steps=5,
        warmup=2,
        search_s=10.0,
        note=NO_DROPOUT,
    ),
}


def auto(device: DeviceFacts) -> tuple[str, Recipe, str]:
    """The preset for a device, its baseline, and a note on what was chosen.

    On an accelerator: gpt2 at the largest power of two up to 8 that the baseline fits.
    """
    if device.type == "cpu":
        return "cpu", baseline("cpu"), PRESETS["cpu"].note
    fits = [b for b in (8, 4, 2) if GPT2_FIXED_GIB + b * GPT2_GIB_PER_WINDOW < device.memory_gib]
    batch = fits[0] if fits else 1
    note = f"batch {batch}: the baseline at batch 8 wants about 26 GiB of {device.memory_gib:.0f}"
    return "gpt2", Recipe(batch_size=batch), "" if batch == 8 else note


def baseline(preset: str) -> Recipe:
    chosen = PRESETS[preset]
    return Recipe(batch_size=chosen.batch_size, dropout=chosen.dropout)
