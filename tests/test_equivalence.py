"""The gate before the clock lets right rungs through and stops wrong ones."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from common.ceilings import measure_ceilings
from common.equivalence import NotEquivalent, check
from common.model import CausalAttention, StoredMask
from common.presets import baseline
from common.recipe import Numerics
from steps import LADDER
from tests.conftest import SMALL

CPU = torch.device("cpu")
BASE = baseline("tiny")


class Unscaled(CausalAttention):
    def attend(self, query, key, value):
        return super().attend(query * query.shape[-1] ** 0.5, key, value)


class SeesTheFuture(StoredMask):
    def forward(self, tokens, device):
        return torch.zeros(tokens, tokens, dtype=torch.bool)


class ForgetsItsBias(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x) * 1.02


class NotANumber(nn.Module):
    def forward(self, x):
        return torch.where(x > 100, x, x / 0 * 0)


@pytest.mark.parametrize("number", range(LADDER.top - 2))  # compiling is in the tiny ladder's test
def test_every_rung_passes(number):
    recipe = LADDER.compose(BASE, range(number + 1))
    below = LADDER.compose(BASE, range(number))
    found = check(recipe, below, BASE, LADDER.numerics(number), CPU)
    assert found.worst_gradient_error < found.limit
    assert found.same_as_below == (LADDER.numerics(number) is Numerics.EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "wrong", [{"attention": Unscaled}, {"mask": SeesTheFuture}, {"activation": NotANumber}]
)
def test_a_wrong_rung_is_stopped_in_either_precision(dtype, wrong):
    right = replace(BASE, dtype=dtype)
    check(right, right, BASE, Numerics.ROUNDING, CPU)
    with pytest.raises(NotEquivalent, match="is off by"):
        check(replace(right, **wrong), right, BASE, Numerics.ROUNDING, CPU)


def test_a_small_fault_is_stopped_in_float32():
    with pytest.raises(NotEquivalent):
        check(replace(BASE, norm=ForgetsItsBias), BASE, BASE, Numerics.ROUNDING, CPU)


def test_exact_means_bit_for_bit():
    rounded = replace(BASE, norm=nn.LayerNorm)
    check(rounded, BASE, BASE, Numerics.ROUNDING, CPU)
    with pytest.raises(NotEquivalent, match="bit for bit"):
        check(rounded, BASE, BASE, Numerics.EXACT, CPU)


def test_ceilings_are_rates_of_this_device():
    found = measure_ceilings(BASE, SMALL, CPU, ["float32", "bfloat16"])
    assert set(found) == {"float32", "bfloat16", "copy"}
    assert 1e8 < found["float32"] < 1e14
    assert 1e8 < found["copy"] < 1e13
