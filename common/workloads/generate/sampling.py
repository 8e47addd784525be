"""How a token is chosen: the likeliest, or a draw; and whether a draft's guesses are accepted.

With p the model's and q the draft's distribution at a place, a guess x is accepted with probability
min(1, p(x) / q(x)). The first one that is refused is replaced by a draw from max(p - q, 0),
normalised, and if all are accepted, one token more is drawn from p. So what is chosen has the
distribution p, whatever q is. p and q are what is drawn from: after temperature and top-k.

Source: Leviathan, Kalman, Matias 2023, Fast Inference from Transformers via Speculative Decoding,
arXiv:2211.17192, appendix A.1; Chen et al. 2023, arXiv:2302.01318.
Shapes: k guesses, V vocabulary.
"""

from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from common.engine.errors import UserError


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that a draft expects, and the distribution (V,) each is of; None: certain of it."""

    tokens: list[int] = field(default_factory=list)
    q: list[torch.Tensor | None] = field(default_factory=list)


class Greedy:
    """The likeliest token: p is certain of it, so a guess is right or wrong."""

    def pick(self, logits: torch.Tensor) -> tuple[int, torch.Tensor | None]:
        """A token by logits (V,), and the distribution (V,) that it is of; None: certain of it."""
        return logits.argmax().item(), None

    def judge(self, logits: torch.Tensor, guess: Guess) -> tuple[int, int]:
        """Logits (k + 1, V) to how many guesses are accepted, and the token after those."""
        own = logits.argmax(dim=-1).tolist()
        wrong = (place for place, token in enumerate(guess.tokens) if token != own[place])
        accepted = next(wrong, len(guess.tokens))
        return accepted, own[accepted]


class Sampled:
    """A draw from the `top_k` likeliest (None: all), at a temperature above 0."""

    def __init__(
        self, temperature: float, top_k: int | None, generator: torch.Generator | None = None
    ) -> None:
        self.temperature, self.top_k, self.generator = temperature, top_k, generator

    def distribution(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) to what is drawn from, (..., V), on the host."""
        logits = logits.float().cpu() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kept, places = logits.topk(self.top_k, dim=-1)
            logits = torch.full_like(logits, -torch.inf).scatter(-1, places, kept)
        return torch.softmax(logits, dim=-1)

    def pick(self, logits: torch.Tensor) -> tuple[int, torch.Tensor]:
        q = self.distribution(logits)
        return self.draw(q), q

    def judge(self, logits: torch.Tensor, guess: Guess) -> tuple[int, int]:
        p = self.distribution(logits)
        for place, (token, q) in enumerate(zip(guess.tokens, guess.q, strict=True)):
            if q is None:
                q = F.one_hot(torch.tensor(token), p.shape[-1]).to(p)
            if not self.accepts(chance(p[place], q, token)):
                return place, self.draw(residual(p[place], q))
        return len(guess.tokens), self.draw(p[-1])

    def accepts(self, probability: float) -> bool:
        return torch.rand((), generator=self.generator).item() < probability

    def draw(self, p: torch.Tensor) -> int:
        return torch.multinomial(p, 1, generator=self.generator).item()


GREEDY = Greedy()
Sampler = Greedy | Sampled


def sampler_for(
    temperature: float, top_k: int | None = None, generator: torch.Generator | None = None
) -> Sampler:
    """Greedy at temperature 0. Raises UserError for what can be neither of the two."""
    if not 0 <= temperature < float("inf"):
        raise UserError(f"--temperature {temperature:g}: must be a number from 0 on")
    if top_k is not None and top_k < 1:
        raise UserError(f"--top-k {top_k}: must be a whole number from 1 on")
    return Sampled(temperature, top_k, generator) if temperature else GREEDY


def chance(p: torch.Tensor, q: torch.Tensor, token: int) -> float:
    """With what probability a guess that was drawn from q is accepted; p, q (V,)."""
    return min(1.0, (p[token] / q[token]).item())


def residual(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """What a refused guess's replacement is drawn from, (V,): what p has more of than q."""
    more = (p - q).clamp(min=0)
    total = more.sum()
    return more / total if total > 0 else p  # p = q is never refused, but for rounding
