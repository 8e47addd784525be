"""2. Fused AdamW.

Changes: one kernel does all of AdamW's arithmetic (step 3).
Why smaller: the update makes no tensors. torch's loop makes one as large as the parameter at hand,
its for-each form, the usual one on GPUs, as large as all parameters together.
Cost: none known.
When not: if the update itself must be differentiated.
Source: docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html (foreach, fused)
Expected: nothing on a CPU, where the peak is not in the update; up to 4 bytes a parameter on CUDA.
"""

from common.workloads.train.recipe import Recipe
from steps.step03_fused_adamw import CHANGES, NUMERICS, apply, in_effect

__all__ = ["CHANGES", "NUMERICS", "applies", "apply", "in_effect"]


def applies(device, recipe: Recipe) -> str | None:
    return None
