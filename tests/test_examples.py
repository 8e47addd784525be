"""The examples of one's own model: each learns from its input, in few lines, without a network."""

import importlib.util
import socket
from functools import cache

import pytest
import torch

from tests.conftest import PROJECT

FILES = sorted((PROJECT / "examples").glob("*.py"))
OWN_MODEL = "plain"  # writes its model by hand; the others take a library's
STEPS = 8


@cache
def example(path):
    """The file as a module, at its tiny size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXAMPLES_TINY", "1")
        spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def tensors(batch) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    return [*(batch.values() if isinstance(batch, dict) else batch)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refused(*arguments):
        raise AssertionError("an example asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def test_there_are_those_of_the_issue():
    assert [path.stem for path in FILES] == ["bert", "convnext", "gpt2", "llama", "plain", "vit"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_short(path):
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) <= (50 if path.stem == OWN_MODEL else 25)
    assert lines[0].endswith(('Needs torch alone."""', 'Needs transformers."""'))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_learns(path):
    torch.manual_seed(0)
    module, device = example(path), torch.device("cpu")
    model = module.model().train()
    for size in (2, 3):
        assert {len(one) for one in tensors(module.batch(size, device))} == {size}
    batch = module.batch(4, device)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = module.loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert loss.shape == () and torch.isfinite(torch.tensor(losses)).all()
    lacking = [name for name, one in model.named_parameters() if one.grad is None]
    assert not lacking
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_loss_depends_on_the_input_and_on_its_seed_alone(path):
    """Two batches have two losses; a second module has the first one's batches."""
    torch.manual_seed(0)
    module, device = example(path), torch.device("cpu")
    model = module.model().eval()
    module.SEEDED.manual_seed(0)
    first, second = (module.batch(3, device) for _ in range(2))
    module.SEEDED.manual_seed(0)
    pairs = zip(tensors(first), tensors(module.batch(3, device)), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    with torch.no_grad():
        assert module.loss(model, first) != module.loss(model, second)


def test_the_hand_written_parts_are_what_torch_has():
    """Else there would be nothing to put native modules in place of."""
    plain = example(PROJECT / "examples" / "plain.py")
    x = torch.randn(4, plain.WIDTH, dtype=torch.float64)
    norm = plain.LayerNorm().double()
    torch.testing.assert_close(norm(x), torch.nn.functional.layer_norm(x, (plain.WIDTH,)))
    native = torch.nn.functional.gelu(x, approximate="tanh")
    torch.testing.assert_close(plain.GELU()(x), native)
