"""7. bfloat16 weights.

Changes: weights, gradients, moments, and activations are bfloat16 (step 5). It stands on rung 5,
beside autocast.
Why: half the bytes, and no conversions: the fewest seconds an update.
Cost: an update of less than 1/512 of its weight is rounded away, and so is much of what a small
learning rate does: the loss stops falling as the schedule ends.
When not: wherever the loss decides. This rung shows what the tokens per second of step 5 leave out.
Source: Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training, arXiv:1905.12322.
Expected: more tokens, or the target is not reached at all.
"""

from steps.step05_bfloat16 import CHANGES, NUMERICS, applies, apply, in_effect

__all__ = ["BASE", "CHANGES", "NUMERICS", "applies", "apply", "in_effect"]

BASE = 5
