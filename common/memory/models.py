"""The published GPT-2s, and the rough table of their memory that goes round."""

from dataclasses import dataclass

from common.gpt.model import parameter_count
from common.gpt.shape import Shape
from common.workloads.train.presets import PRESETS

GB = 1e9
# bytes a parameter with AdamW: weight, gradient, two moments in float32; torch's autocast keeps
# all of them, and adds copies of its own
ADAMW_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Model:
    """One of them, as this project builds it: its head is a matrix of its own."""

    name: str
    shape: Shape
    published_m: float | None = None  # parameters in millions; the head is the embedding
    before_gb: float | None = None  # of the rough table: float32
    after_gb: float | None = None  # with "mixed precision, 38 % less"

    @property
    def parameters(self) -> int:
        return parameter_count(self.shape, self.shape.vocab_size)

    @property
    def tied(self) -> int:
        """Parameters if the head were the embedding; with GPT-2's biases of query, key, value."""
        shape = self.shape
        biases = 3 * shape.layers * shape.emb_dim
        return self.parameters - shape.vocab_size * shape.emb_dim + biases

    def title(self) -> list[str]:
        shape = self.shape
        return [
            f"{self.name}: {shape.layers} layers, {shape.heads} heads, width {shape.emb_dim}, "
            f"context {shape.context}",
            f"{self.parameters / 1e6:,.1f} M parameters here; {self.tied / 1e6:,.1f} M as "
            "published, the head tied to the embedding",
        ]


def published(name: str, preset: str, *figures: float) -> Model:
    count_m, before_gb, after_gb = figures
    shape = PRESETS[preset].shape
    return Model(
        name=f"GPT-2 {name}",
        shape=shape,
        published_m=count_m,
        before_gb=before_gb,
        after_gb=after_gb,
    )


MODELS = {
    "small": published("small", "gpt2", 124.4, 4, 2.5),
    "medium": published("medium", "gpt2-medium", 354.8, 8, 5),
    "large": published("large", "gpt2-large", 774.0, 16, 10),
}


def rough_table(models: list[Model]) -> list[str]:
    """The table that goes round beside what cannot be less, and what is wrong with it."""
    known = [model for model in models if model.published_m]
    if not known:
        return []
    lines = ['The rough table that goes round, "38 % less with mixed precision", in GB:', ""]
    lines.append(f"{'':<14}{'before':>8}{'after':>8}{'16 B a parameter, tied':>26}{'here':>8}")
    for model in known:
        tied, here = (ADAMW_BYTES * n / GB for n in (model.tied, model.parameters))
        lines.append(
            f"{model.name:<14}{model.before_gb:>8g}{model.after_gb:>8g}{tied:>26.1f}{here:>8.1f}"
        )
    return lines


WRONG = (
    "What is wrong with it: the models have 124.4, 354.8, and 774.0 M parameters. Autocast keeps "
    "float32 weights, gradients, and both of AdamW's moments, 16 bytes a parameter, and adds "
    "16-bit copies of the matrices: 5 GB for medium and 10 for large are less than that alone, "
    "so they cannot be for AdamW under autocast. It names no batch and no context, which decide "
    "the rest. At batch 1 autocast saves nothing."
)
