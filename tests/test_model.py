"""The baseline is GPT-2 124M, exactly, and no slower than the same mathematics written plainly."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.gpt.model import GELU, GPT, LayerNorm, StoredMask
from common.gpt.shape import Shape
from common.workloads.train.build import build, evaluate, train_step
from common.workloads.train.recipe import Recipe
from steps.step01_causal_mask import MaskOnTheFly
from tests.conftest import SMALL

CPU = torch.device("cpu")


@pytest.mark.parametrize(("vocab", "parameters"), [(50_257, 163_009_536), (50_304, 163_081_728)])
def test_parameter_count(vocab, parameters):
    with torch.device("meta"):
        model = GPT(Shape(), Recipe(), vocab)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_flops_per_token():
    assert round(Shape().flops_per_token() / 1e6, 1) == 854.4


def test_layer_norm_is_pytorchs():
    x = torch.randn(3, 5, 32)
    torch.testing.assert_close(LayerNorm(32)(x), nn.LayerNorm(32)(x))


def test_gelu_is_pytorchs_tanh_form():
    x = torch.randn(1000)
    torch.testing.assert_close(GELU()(x), F.gelu(x, approximate="tanh"))


def test_masks_hide_the_future_only():
    expected = torch.tensor([[False, True, True], [False, False, True], [False, False, False]])
    assert torch.equal(StoredMask(8)(3, CPU), expected)
    assert torch.equal(MaskOnTheFly(8)(3, CPU), expected)


def test_a_token_does_not_see_its_future():
    model = build(Recipe(dropout=0.0), SMALL, CPU).model
    ids = torch.randint(509, (2, 16))
    changed = ids.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 509
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_weights_start_as_torch_starts_them():
    model = build(Recipe(), Shape(layers=1, vocab_size=2_000, context=64), CPU).model
    assert abs(model.token_embedding.weight.std().item() - 1) < 0.01  # N(0, 1)
    bound = 768**-0.5  # U(-1/sqrt(in), 1/sqrt(in))
    head = model.head.weight
    assert bound * 0.99 < head.abs().max() <= bound
    assert abs(head.std().item() - bound / 3**0.5) < 0.01 * bound


def test_dropout_is_in_three_places_and_off_in_evaluation():
    run = build(Recipe(dropout=0.5), SMALL, CPU)
    drops = [m for m in run.model.modules() if isinstance(m, nn.Dropout)]
    assert len(drops) == 1 + 2 * SMALL.layers  # embedding; per layer: attention weights, residual
    batch = torch.randint(509, (2, 16)), torch.randint(509, (2, 16))
    assert evaluate(run, [batch]) == evaluate(run, [batch])
    assert run.model.training
    assert not torch.equal(run.model(batch[0]), run.model(batch[0]))


def test_training_lowers_the_loss():
    run = build(Recipe(dropout=0.0), SMALL, CPU)
    batch = torch.randint(509, (4, 16)), torch.randint(509, (4, 16))
    losses = [train_step(run, *batch).item() for _ in range(20)]
    assert losses[-1] < losses[0] - 0.3
