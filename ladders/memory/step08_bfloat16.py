"""8. bfloat16 throughout.

Changes: weights, gradients, moments, and activations are bfloat16 (step 5). It stands on rung 5,
beside autocast.
Why smaller: 8 bytes a parameter instead of 16, and 2 instead of 4 for everything else.
Cost: an update of less than 1/512 of its weight is rounded away: look at the held-out loss.
When not: for long runs, unless something keeps what is rounded away.
Source: Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training, arXiv:1905.12322.
Expected: half of rung 5.
"""

from steps.step05_bfloat16 import CHANGES, NUMERICS, applies, apply, in_effect

__all__ = ["BASE", "CHANGES", "NUMERICS", "applies", "apply", "in_effect"]

BASE = 5
