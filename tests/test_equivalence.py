"""The gate before the clock lets right rungs through and stops wrong ones."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from common.accelerator.device import describe
from common.engine.contract import NotEquivalent, Numerics
from common.gpt.model import Block, CausalAttention, LayerNorm, Linear, StoredMask
from common.workloads.train.ceilings import measure_ceilings
from common.workloads.train.equivalence import check, relative_errors
from common.workloads.train.presets import baseline
from ladders.beyond import AT_THIS_BATCH
from ladders.beyond import LADDER as BEYOND
from steps import LADDER
from tests.conftest import SMALL

CPU = torch.device("cpu")
BASE = baseline("tiny")
# claim, parameter, error, limit
SENTENCE = r"^declared rounding, but in \w+ the (gradient of [\w.]+|loss) is off by .+ is allowed$"
ELSEWHERE = ("torch.compile", "Attention backend", "Compile mode")  # only compiles, or is CUDA's
ROUNDING = [
    (ladder, number)
    for ladder in (LADDER, BEYOND)
    for number in range(1, ladder.top + 1)
    if ladder.numerics(number) is Numerics.ROUNDING and ladder.title(number) not in ELSEWHERE
]


def at(ladder, number: int, dtype: torch.dtype):
    """A rung on all that it adds to, uncompiled."""
    foot = LADDER.compose(BASE, AT_THIS_BATCH) if ladder is BEYOND else BASE
    return replace(ladder.compose(foot, ladder.chain(number)), dtype=dtype, compile=False)


class SixteenBits(CausalAttention):
    def attend(self, query, key, value):
        if query.dtype is torch.float32:
            raise RuntimeError("No available kernel. Aborting execution.")
        return super().attend(query, key, value)


class Unscaled(CausalAttention):
    def attend(self, query, key, value):
        return super().attend(query * query.shape[-1] ** 0.5, key, value)


class SeesTheFuture(StoredMask):
    def forward(self, tokens, device):
        return torch.zeros(tokens, tokens, dtype=torch.bool)


class SeesTheNext(StoredMask):
    def forward(self, tokens, device):
        return torch.ones(tokens, tokens, dtype=torch.bool).triu(diagonal=2)


class LargerByTwoPercent(LayerNorm):
    def forward(self, x):
        return super().forward(x) * 1.02


class OtherEpsilon(LayerNorm):
    def __init__(self, emb_dim):
        super().__init__(emb_dim)
        self.eps = 1e-3


class NoShortcut(Block):
    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return self.feed_forward(self.norm2(x))


class ForgetsItsBias(Linear):
    def forward(self, x):
        return self.multiply(x, self.weight)


class NotANumber(nn.Module):
    def forward(self, x):
        return torch.where(x > 100, x, x / 0 * 0)


class NoGradient(CausalAttention):
    """Right but for one gradient, which is not a number."""

    def attend(self, query, key, value):
        key.register_hook(lambda gradient: gradient * torch.nan)
        return super().attend(query, key, value)


class ModuleLoss(nn.Module):
    """Another way to the same loss."""

    smoothing = 0.0

    def __init__(self, model, recipe):
        super().__init__()
        self.model = model
        self.criterion = nn.CrossEntropyLoss(label_smoothing=self.smoothing)

    def forward(self, ids, targets):
        return self.criterion(self.model(ids).flatten(0, 1), targets.flatten())


class SmoothedLoss(ModuleLoss):
    smoothing = 1e-4


FAULTS = {
    "no scale": {"attention": Unscaled},
    "the next token seen": {"mask": SeesTheNext},
    "all tokens seen": {"mask": SeesTheFuture},
    "the exact GELU": {"activation": nn.GELU},
    "epsilon 1e-3": {"norm": OtherEpsilon},
    "norm 2 % too large": {"norm": LargerByTwoPercent},
    "no shortcut": {"block": NoShortcut},
    "no bias": {"linear": ForgetsItsBias},
    "no number": {"activation": NotANumber},
    "one gradient no number": {"attention": NoGradient},
    "loss off by 1e-4": {"objective": SmoothedLoss},
}
BY_THE_FORMATS_LIMIT = ("the exact GELU", "epsilon 1e-3", "norm 2 % too large", "loss off by 1e-4")


@pytest.mark.parametrize("number", range(LADDER.top - 2))  # compiling is in the tiny ladder's test
def test_every_rung_passes(number):
    recipe = LADDER.compose(BASE, range(number + 1))
    below = LADDER.compose(BASE, range(number))
    claim = LADDER.numerics(number)
    found = check(recipe, below, BASE, claim, CPU)
    assert found.claim is claim
    assert found.error < found.limit
    assert found.same_as_below == (claim is Numerics.EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("ladder", "number"), ROUNDING, ids=[f"{ladder.name} {n}" for ladder, n in ROUNDING]
)
def test_rungs_that_round_do_so_in_either_format(ladder, number, dtype):
    """Those of steps and beyond, each on its base; half of what is allowed is not used."""
    recipe, below = (at(ladder, n, dtype) for n in (number, ladder.rung(number).base))
    found = check(recipe, below, BASE, Numerics.ROUNDING, CPU)
    assert found.error < 0.6 * found.limit
    if dtype is torch.bfloat16:
        assert found.formats[-1] == "float32"
        assert found.limit < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_rung_is_stopped_in_either_format(dtype, fault):
    right = replace(BASE, dtype=dtype)
    with pytest.raises(NotEquivalent, match=SENTENCE):
        check(replace(right, **FAULTS[fault]), right, BASE, Numerics.ROUNDING, CPU)


@pytest.mark.parametrize("fault", BY_THE_FORMATS_LIMIT)
def test_the_formats_limit_alone_lets_small_faults_through(fault):
    """So that the test above is one of the rule: LOWER_PRECISION is held to the format only."""
    wrong = replace(BASE, dtype=torch.bfloat16, **FAULTS[fault])
    check(wrong, BASE, BASE, Numerics.LOWER_PRECISION, CPU)


def test_who_lowers_the_precision_must_say_so():
    lower = replace(BASE, dtype=torch.bfloat16)
    assert check(lower, BASE, BASE, Numerics.LOWER_PRECISION, CPU).limit == 0.1
    with pytest.raises(NotEquivalent, match="declared rounding, but in bfloat16"):
        check(lower, BASE, BASE, Numerics.ROUNDING, CPU)


def test_exact_means_bit_for_bit():
    rounded = replace(BASE, norm=nn.LayerNorm)
    check(rounded, BASE, BASE, Numerics.ROUNDING, CPU)
    with pytest.raises(NotEquivalent, match=r"declared exact, but .+ off by \d.+ bit for bit"):
        check(rounded, BASE, BASE, Numerics.EXACT, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_way_to_the_same_loss_is_exact(dtype):
    """Above the plain loss or below it: both are computed through their objectives."""
    plain = replace(BASE, dtype=dtype, vocab_multiple=64)  # padding ids count in neither
    other = replace(plain, objective=ModuleLoss)
    for recipe, below in ((other, plain), (plain, other), (other, other)):
        assert check(recipe, below, BASE, Numerics.EXACT, CPU).same_as_below
    with pytest.raises(NotEquivalent, match="bit for bit|where 2.0e-05 is allowed"):
        check(replace(plain, objective=SmoothedLoss), plain, BASE, Numerics.EXACT, CPU)


def test_kernels_for_16_bits_are_held_to_their_own_format():
    """What cannot run in float32 is not refused for it, and the record says where it was held."""
    right = replace(BASE, dtype=torch.bfloat16)
    found = check(replace(right, attention=SixteenBits), right, BASE, Numerics.ROUNDING, CPU)
    assert found.formats == ("bfloat16",)


def test_gradients_that_should_be_zero_are_compared_with_all():
    reference = {"loss": torch.tensor(2.0), "key.bias": torch.zeros(3), "w": torch.tensor([3.0])}
    own = reference | {"key.bias": torch.full((3,), 3e-9)}
    errors = relative_errors(own, reference)
    assert errors["key.bias"] == pytest.approx(3e-9 * 3**0.5 / 3e-3)
    assert errors["w"] == 0.0


def test_records_keep_the_names_that_readers_know():
    found = check(BASE, BASE, BASE, Numerics.EXACT, CPU).to_json()
    assert found["claim"] == "exact"
    assert found["worst_gradient_error"] < found["limit"] == 2e-5
    assert found["worst_gradient"].startswith("blocks.")
    assert json.loads(json.dumps(found)) == found


def test_ceilings_are_rates_of_this_device():
    found = measure_ceilings(BASE, SMALL, CPU)
    formats = {"float32", "bfloat16"} if describe("cpu").native_bf16 else {"float32"}
    assert set(found) == {*formats, "copy"}
    assert 1e8 < found["float32"] < 1e14
    assert 1e8 < found["copy"] < 1e13
