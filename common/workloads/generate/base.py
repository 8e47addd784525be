"""The weights that are generated from: trained here, untrained, or of a file.

The base model is trained once on the built-in text, and kept in the cache under a hash of all that
it depends on. It is small and no great writer: its text and its loss are real, so that what a rung
does to them shows.
"""

import hashlib
import io
import json
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from common.engine.errors import UserError
from common.engine.machine import cache_dir
from common.engine.records import is_file, write_atomically
from common.gpt.model import GPT, CausalAttention
from common.gpt.shape import Shape
from common.gpt.text import Endless, read_text, read_tokens, split, with_checksum
from common.gpt.weights import in_short, unpadded_state
from common.workloads.generate.heads import spread
from common.workloads.generate.model import QKV, State
from common.workloads.generate.published import from_published, read_safetensors
from common.workloads.generate.settings import Settings
from common.workloads.train.batches import make_loader
from common.workloads.train.build import SEED, Run, build, seed_parameters, train_step
from common.workloads.train.recipe import Recipe

BATCH = 4  # windows in a step of the base model's training
DATA_SEED = 11
EVERY_S = 2.0  # between two words on how far it is
CODE = (__name__, "common.gpt.model", "common.gpt.text")  # what trained it, beside the two below
CODE += ("common.workloads.train.build", "common.workloads.train.update")


class TanhGELU(nn.GELU):
    def __init__(self) -> None:
        super().__init__(approximate="tanh")


class FastAttention(CausalAttention):
    """torch's own choice of kernel."""

    def attend(self, query, key, value) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)


RECIPE = Recipe(  # of the base model's training
    norm=nn.LayerNorm,
    activation=TanhGELU,
    attention=FastAttention,
    fused_optimizer=True,
    dropout=0.0,
    batch_size=BATCH,
    learning_rate=1e-3,
)


@dataclass(frozen=True)
class Weights:
    """Parameters by GPT's names, float32, and what is told of them in records."""

    state: State
    told: dict  # source, trained, steps, loss

    @property
    def trained(self) -> bool:
        return self.told["trained"]


def weights_for(settings: Settings, say: Callable[[str], None] | None = None) -> Weights:
    """What the settings ask for. Raises UserError for a file that cannot be had or does not fit."""
    if settings.weights is not None:
        state = read_weights(Path(settings.weights), settings.shape)
        told = {"source": settings.weights, "trained": True, "steps": None, "loss": None}
        return Weights(state, told)
    if not settings.base_steps:
        return untrained(settings.shape)
    return kept(base_path(settings), settings, lambda: train_base(settings, say or aloud))


def aloud(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def kept(path: Path, settings: Settings, make: Callable[[], Weights]) -> Weights:
    """Trained weights from the cache; where there are none, they are made and put there."""
    found = read_base(path, settings.shape)
    if found is None:
        found = make()
        content = io.BytesIO()
        torch.save({"state": found.state, "told": found.told}, content)
        try:
            write_atomically(path, with_checksum(content.getvalue()))
        except OSError as error:
            raise UserError(
                f"the base model: {path} cannot be written ({error.strerror})"
            ) from error
    return found


def untrained(shape: Shape) -> Weights:
    """As training begins: where speed alone is asked."""
    model = GPT(shape, RECIPE, shape.vocab_size)
    seed_parameters(model, shape)
    told = {"source": "untrained weights", "trained": False, "steps": 0, "loss": None}
    return Weights(model.state_dict(), told)


# -- trained here --


def base_path(settings: Settings) -> Path:
    """Where the base model is kept: by its shape, its text, its training, and the code of that."""
    sources = (Path(sys.modules[name].__file__).read_bytes() for name in CODE)
    facts = {
        "shape": asdict(settings.shape),
        "text": read_text(settings.text).sha256,
        "recipe": RECIPE.to_json(),
        "steps": settings.base_steps,
        "seeds": (SEED, DATA_SEED),
        "code": [hashlib.sha256(source).hexdigest() for source in sources],
        "torch": torch.__version__,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_dir() / f"base-{key[:16]}.pt"


def read_base(path: Path, shape: Shape) -> Weights | None:
    """A model in the cache; None where there is none, or it is damaged."""
    if not is_file(path):
        return None
    content = path.read_bytes()
    if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
        return None
    try:
        found = torch.load(io.BytesIO(content[:-4]), weights_only=True)
        fitting(spread(found["state"], shape.heads), shape)
        return Weights(found["state"], found["told"])
    except Exception:  # torch.load raises what the damage happens to cause: it is trained again
        return None


def train_base(settings: Settings, say: Callable[[str], None]) -> Weights:
    """Train it on this machine's processor; `say` is told how far it is, and the time left."""
    steps = settings.base_steps
    run = build(RECIPE, settings.shape, torch.device("cpu"))
    told = {
        "source": f"a base model, trained for {steps} steps of {BATCH} windows",
        "trained": True,
        "steps": steps,
        "loss": train(run, settings.text, steps, DATA_SEED, "base model", say),
    }
    return Weights(unpadded_state(run.model, settings.shape), told)


def train(
    run: Run, text: str | None, steps: int, seed: int, what: str, say: Callable[[str], None]
) -> float:
    """Train a model on windows in the seed's order. Gives the mean loss of the last ten steps."""
    windows, _ = split(read_tokens(read_text(text)), run.shape)
    batches = iter(make_loader(windows, RECIPE, Endless(windows, seed)))
    begin = told_at = time.perf_counter()
    losses = []
    for step in range(1, steps + 1):
        losses.append(train_step(run, *next(batches)).item())
        now = time.perf_counter()
        if now - told_at > EVERY_S or step == steps:
            left_s = (now - begin) / step * (steps - step)
            say(f"{what}: step {step} of {steps}, loss {losses[-1]:.2f}, {left_s:.0f} s left")
            told_at = now
    return mean(losses[-10:])


# -- from a file --


def read_weights(path: Path, shape: Shape) -> State:
    """A model's parameters. Raises UserError if the file is damaged or of another shape."""
    return read_file("--weights", path, lambda state: fitting(state, shape))


def read_file(option: str, path: Path, fit: Callable[[State], Any]) -> Any:
    """What `fit` makes of a checkpoint of the scripts, or of safetensors with GPT-2's names or
    this project's. Raises UserError, also in place of whatever `fit` raises.
    """
    if not is_file(path):
        raise UserError(f"{option} {path}: no such file; a checkpoint or safetensors is needed")
    try:
        if path.suffix == ".safetensors":
            state = read_safetensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if any(name.removeprefix("transformer.") == "wte.weight" for name in state):
            state = from_published(state)
        return fit(state)
    except UserError as error:
        raise UserError(f"{option} {path}: {error}") from error
    except Exception as error:  # whatever damage happens to cause
        said = f"{option} {path}: no checkpoint and no safetensors ({in_short(error)})"
        raise UserError(said) from error


def fitting(state: State, shape: Shape) -> State:
    """The parameters in float32, all there and of the shape. Raises UserError otherwise."""
    with torch.device("meta"):
        due = {k: p.shape for k, p in GPT(shape, RECIPE, shape.vocab_size).state_dict().items()}
    for layer in range(shape.layers):
        names = [f"blocks.{layer}.attention.{name}.bias" for name in QKV]
        if any(name in state for name in names):
            due |= {name: torch.Size([shape.emb_dim]) for name in names}
    odd = sorted(due.keys() ^ state.keys())
    wrong = [name for name in due if name in state and state[name].shape != due[name]]
    if wrong:
        name = wrong[0]
        own, wanted = (" x ".join(map(str, size)) for size in (state[name].shape, due[name]))
        raise UserError(
            f"weights of another shape: {name} is {own}, and {wanted} is needed for "
            f"{shape.layers} layers, width {shape.emb_dim}, context {shape.context}; "
            "--preset, --layers, --emb-dim, and --context choose another one"
        )
    if odd:
        what = "there is no" if odd[0] in due else "there is a"
        raise UserError(f"weights of another shape: {what} {odd[0]} for {shape.layers} layers")
    return {name: parameter.float() for name, parameter in state.items()}
