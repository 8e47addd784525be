"""What is compressed: a model with its head tied, trained here or of a file, and its texts apart.

Losses are compared on the text's last tenth. Statistics are taken from windows of calibration, in
which no long run of tokens of that tenth occurs.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from common.engine.errors import UserError
from common.engine.machine import cache_dir
from common.engine.records import is_file
from common.gpt.shape import Shape
from common.gpt.text import Text, Windows, read_text, read_text_file, read_tokens, split
from common.workloads.compress import files
from common.workloads.compress.parts import QKV, State
from common.workloads.compress.settings import Settings
from common.workloads.compress.training import DATA_SEED, Say, started, state_of, to_stderr, train
from common.workloads.generate.base import RECIPE, read_weights

SEED = 123
EARLY = 10  # a tenth of the training: where a lottery ticket is rewound to
RUN = 32  # tokens in a row that occur in both texts: more than idioms do
CODE = (  # what made the base model
    *(f"common.workloads.compress.{name}" for name in ("base", "training")),
    *("common.gpt.model", "common.gpt.text", "common.workloads.generate.base"),
)


@dataclass(frozen=True, eq=False)
class Base:
    """The model, float32, and the texts that rungs may use. None of them is held out."""

    shape: Shape
    state: State
    windows: Windows  # to train on
    calibration: list[torch.Tensor]  # (T + 1,) ids each
    key: str  # of all that it depends on
    told: dict = field(default_factory=dict)  # for records: source, steps
    early: State | None = None  # after a tenth of the training; None: not trained here

    def of_heads(self, layer: int, state: State | None = None) -> Iterator[torch.Tensor]:
        """All weights of each head: its queries, keys, and values, and its part of the output."""
        state, heads = state or self.state, self.shape.heads
        own = f"blocks.{layer}.attention"
        rows = (state[f"{own}.{name}.weight"].chunk(heads) for name in QKV)
        columns = state[f"{own}.out_proj.weight"].chunk(heads, dim=1)
        for query, key, value, out in zip(*rows, columns, strict=True):
            yield torch.cat([part.flatten() for part in (query, key, value, out)])


def base_for(settings: Settings, say: Say | None = None) -> Base:
    """What the settings ask for, from the cache where it is. Raises UserError."""
    text, shape = read_text(settings.text), settings.shape
    windows, held_out = split(read_tokens(text), shape)
    calibration = calibration_windows(settings, windows, held_out)
    texts = {"calibration": [ids.tolist() for ids in calibration], "text": text.sha256}
    if settings.weights is not None:
        path = Path(settings.weights)
        state = read_weights(path, shape)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        told = {"source": settings.weights, "steps": None}
        return Base(shape, state, windows, calibration, hashed(texts | {"file": content}), told)
    facts = facts_of(settings, text)
    path = cache_dir() / f"compress-base-{hashed(facts)[:16]}.safetensors"
    kept = read_base(path)
    if kept is None:
        kept = train_base(shape, windows, settings.base_steps, say or to_stderr("base model"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, kept, {})
        except OSError as error:
            said = f"the base model: {path} cannot be written ({error.strerror})"
            raise UserError(said) from error
    told = {"source": f"a base model, trained for {settings.base_steps} steps"}
    told |= {"steps": settings.base_steps}
    both = [named_under(kept, prefix) for prefix in ("last.", "early.")]
    key = hashed(texts | facts)
    return Base(shape, both[0], windows, calibration, key, told, early=both[1])


def train_base(shape: Shape, windows: Windows, steps: int, say: Say) -> State:
    """The parameters after a tenth of the training, and after all of it, by prefix."""
    model, found = started(shape, SEED), {}

    def keep(prefix: str) -> Callable[[], None]:
        return lambda: found.update({f"{prefix}.{k}": v for k, v in state_of(model).items()})

    train(model, windows, steps, at={max(1, steps // EARLY): keep("early")}, say=say)
    keep("last")()
    tied = ("early.head.weight", "last.head.weight")
    return {name: tensor for name, tensor in found.items() if name not in tied}


def named_under(kept: State, prefix: str) -> State:
    """The parameters of one prefix, with the tied head."""
    state = {k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)}
    return state | {"head.weight": state["token_embedding.weight"]}


def read_base(path: Path) -> State | None:
    """What the cache has; None where it is not there or damaged, and is trained again."""
    if not is_file(path):
        return None
    try:
        return files.read(path)[0]
    except (ValueError, KeyError, OSError):
        return None


def facts_of(settings: Settings, text: Text) -> dict:
    """All that the trained model depends on."""
    sources = (Path(sys.modules[name].__file__).read_bytes() for name in CODE)
    return {
        "shape": asdict(settings.shape),
        "text": text.sha256,
        "recipe": RECIPE.to_json(),
        "steps": settings.base_steps,
        "seeds": (SEED, DATA_SEED),
        "code": [hashlib.sha256(source).hexdigest() for source in sources],
        "torch": torch.__version__,
    }


def hashed(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


# -- texts apart --


def calibration_windows(settings: Settings, windows: Windows, held_out: Windows) -> list:
    """Windows (T + 1,) that share no run of tokens with the held-out text. Raises UserError.

    Of the training text those that do are passed over; of a file, which somebody chose, none is.
    """
    wanted, seen = settings.calibration_windows, runs(held_out.tokens)
    if settings.calibration is not None:
        text = read_text_file(Path(settings.calibration), "--calibration")
        ids = np.asarray(read_tokens(Text(settings.calibration, text)))
        windows = Windows(ids, settings.shape.context)
        if not len(windows):
            raise UserError(
                f"--calibration {settings.calibration}: has {len(ids):,} tokens, and a window of "
                f"{settings.shape.context + 1:,} is needed"
            )
        if shared := len(runs(ids) & seen):
            raise UserError(
                f"--calibration {settings.calibration}: {shared:,} runs of {RUN} tokens are in the "
                "held-out text, too; a text that shares none is needed"
            )
    order = np.random.default_rng(SEED).permutation(len(windows))
    whole = (torch.cat([windows[n][0], windows[n][1][-1:]]) for n in order.tolist())
    found = []
    for ids in whole:
        if not runs(ids.numpy()) & seen:
            found.append(ids)
        if len(found) == wanted:
            break
    if not found:
        raise UserError(
            "calibration: every window of the text shares a run of tokens with its held-out "
            "tenth; --calibration FILE gives another text"
        )
    return found


def runs(ids: np.ndarray) -> set[bytes]:
    """All runs of RUN tokens, or the whole where it is shorter."""
    whole = np.ascontiguousarray(ids, dtype="<u2")
    length = min(RUN, len(whole))
    raw, size = whole.tobytes(), whole.itemsize
    ends = range(0, len(raw) - length * size + 1, size)
    return {raw[begin : begin + length * size] for begin in ends}
