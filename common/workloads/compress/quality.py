"""How far a compressed model is from the float32 one, on the same held-out windows.

Perplexities of other windows, other tokenizers, or other contexts are not comparable; bits per byte
of the same text are.
"""

import math
from dataclasses import asdict, dataclass
from statistics import mean, stdev

import torch
from torch.nn import functional as F

from common.engine.stats import CONFIDENCE, student_t
from common.gpt.text import Windows, tokenizer
from common.workloads.compress.model import Model


@dataclass(frozen=True)
class Quality:
    """Means over windows; losses in nats. `delta`: the loss less float32's, window by window."""

    loss: float
    delta: float
    delta_low: float | None  # a 95 % interval over windows, by Student's t
    delta_high: float | None
    bits_per_byte: float
    kl: float  # from float32's distribution of the next token, nats
    same_top: float  # the share of tokens after which both find the same one likeliest
    windows: int

    def to_json(self) -> dict:
        return asdict(self)


@torch.no_grad()
def compare(model: Model, plain: Model, windows: list[torch.Tensor]) -> Quality:
    """Both on windows (T + 1,) of ids, one at a time."""
    device, rows = model.positions.device, []
    for ids in windows:
        inputs, targets = ids[None, :-1].to(device), ids[1:].to(device)
        own, due = (one(inputs)[0].float().log_softmax(-1) for one in (model, plain))  # (T, V)
        losses = [F.nll_loss(one, targets).item() for one in (own, due)]
        kl = F.kl_div(own, due, log_target=True, reduction="batchmean").item()
        same = (own.argmax(-1) == due.argmax(-1)).float().mean().item()
        rows.append((*losses, kl, same))
    losses, plain_losses, kls, same = (list(column) for column in zip(*rows, strict=True))
    low, delta, high = paired(losses, plain_losses)
    tokens = sum(len(ids) - 1 for ids in windows)
    return Quality(
        loss=mean(losses),
        delta=delta,
        delta_low=low,
        delta_high=high,
        bits_per_byte=mean(losses) / math.log(2) * tokens / bytes_of(windows),
        kl=mean(kls),
        same_top=mean(same),
        windows=len(windows),
    )


def paired(losses: list[float], others: list[float]) -> tuple[float | None, float, float | None]:
    """The mean difference of pairs, between the ends of its 95 % interval; None with one pair."""
    apart = [a - b for a, b in zip(losses, others, strict=True)]
    if len(apart) < 2:
        return None, apart[0], None
    half = student_t(CONFIDENCE, len(apart) - 1) * stdev(apart) / math.sqrt(len(apart))
    return mean(apart) - half, mean(apart), mean(apart) + half


def bytes_of(windows: list[torch.Tensor]) -> int:
    """UTF-8 bytes of the text that the windows' targets are."""
    return sum(len(tokenizer().decode_bytes(ids[1:].tolist())) for ids in windows)


def held_out(windows: Windows, most: int) -> list[torch.Tensor]:
    """So many windows (T + 1,) at most, evenly through the text."""
    count = min(most, len(windows))
    numbers = [round(place * (len(windows) - 1) / max(1, count - 1)) for place in range(count)]
    return [torch.cat([windows[n][0], windows[n][1][-1:]]) for n in numbers]
