"""How generating is measured."""

from dataclasses import dataclass

from common.workloads.train.settings import ModelSettings


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """The same for every rung of a run. A timed step decodes `new_tokens` of every request.

    Of a stream's requests these are the longest prompt and the longest answer.
    """

    text: str | None = None  # a file; None: what `read_text` finds
    prompt_tokens: int = 256  # of each request, before the timed steps
    new_tokens: int = 32  # of each request, in a timed step
    stream: int = 32  # requests that arrive one after the other, at rungs that serve a stream
    weights: str | None = None  # a file; None: the base model
    lengths: tuple[int, ...] = ()  # of other prompts, after which tokens are timed as well
    base_steps: int = 0  # that the base model is trained for; 0: untrained
    draft: str | None = None  # a file with a draft model's weights; None: trained as the base model
    uptrain_steps: int = 0  # that it is trained further where heads share keys and values
