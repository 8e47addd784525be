"""The least that a training step must compute and move, and the time that takes at the ceilings.

For every part of a step: floating-point operations, and bytes between memory and the processor if
each operand of a kernel is read once and each result written once. A part needs at least the
longer of FLOPs / (FLOP/s) and bytes / (bytes/s): Williams, Waterman, Patterson 2009, "Roofline",
doi:10.1145/1498765.1498785. The ceilings are the measured ones of ceilings.py.

Symbols: N tokens in a step, T context, L layers, C width, V vocabulary without padding, P
parameters, s bytes per element. All tensors, AdamW's moments too, have the recipe's dtype.
"""

from dataclasses import dataclass

from common.gpt.model import parameter_count
from common.gpt.shape import Shape
from common.workloads.train.parts import ATTENTION, ELEMENTWISE, LOSS, OPTIMIZER, PRODUCTS

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}  # of an element
ID_BYTES = 8  # a token id is an int64


@dataclass(frozen=True)
class Work:
    """What one part of one step needs at least."""

    flops: float
    bytes: float

    def seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        return max(self.flops / flops_per_s, self.bytes / bytes_per_s)


def least_work(shape: Shape, tokens: int, element: int) -> dict[str, Work]:
    """The least work of each part of a step on `tokens` tokens, with `element` bytes per element.

    What no part has: copies, waits, and gaps need not be.
    """
    return {
        PRODUCTS: products(shape, tokens, element),
        ATTENTION: attention(shape, tokens, element),
        ELEMENTWISE: elementwise(shape, tokens, element),
        LOSS: loss(shape, tokens),
        OPTIMIZER: optimizer(shape, element),
    }


def products(shape: Shape, tokens: int, element: int) -> Work:
    """The products with weight matrices: query, key, and value at once, and the head, included.

    A weight of m x n costs 2 m n FLOPs per token forward and 4 m n backward, so the step costs
    6 N (12 L C^2 + V C). Each of the three products (output, gradient of the input, gradient of the
    weight) touches an input (N m), an output (N n), and the weight (m n) once: 3 s (N (m + n) +
    m n). The m + n of a block's four weights are 4 C, 2 C, 5 C, and 5 C. The head's output, the
    logits, need not leave the chip where the loss is fused with it: 3 s (N C + V C).
    """
    layers, width, vocab = shape.layers, shape.emb_dim, shape.vocab_size
    weights = 12 * layers * width**2 + vocab * width
    activations = 16 * layers * tokens * width + tokens * width
    return Work(6 * tokens * weights, 3 * element * (activations + weights))


def attention(shape: Shape, tokens: int, element: int) -> Work:
    """Scores and weighted values, of the causal half only: 6 L C T FLOPs per token.

    Of all scores it would be 12 L C T: two products forward and four backward of 2 C T each. The
    (T, T) scores need not leave the chip. Forward reads q, k, v and writes the output; backward
    reads these four and the output's gradient and writes three: 12 L N C elements.
    """
    elements = 12 * shape.layers * tokens * shape.emb_dim
    return Work(elements * shape.context / 2, elements * element)


def elementwise(shape: Shape, tokens: int, element: int) -> Work:
    """Norms, each fused with the addition before it, GELUs, and the look-up of embeddings.

    A norm with its addition, of which there are 2 L + 1: forward reads two summands and writes sum
    and result, backward reads the sum and both gradients and writes one: 8 N C elements, and 22
    operations on each of N C (8 forward, 14 backward, as its formulas count). The summands of the
    first are the embeddings' rows. A GELU: 4 C wide, read and written forward, read twice and
    written once backward: 20 N C elements, and 27 operations on each of 4 N C (9 and 18, a tanh
    counted as one). The embeddings' gradient: N C read, (V + T) C written, N ids read.
    """
    layers, rows = shape.layers, tokens * shape.emb_dim
    norms = 2 * layers + 1
    tables = (shape.vocab_size + shape.context) * shape.emb_dim
    elements = norms * 8 * rows + layers * 20 * rows + rows + tables
    flops = norms * 22 * rows + layers * 27 * 4 * rows
    return Work(flops, element * elements + ID_BYTES * tokens)


def loss(shape: Shape, tokens: int) -> Work:
    """Softmax and cross-entropy: 5 operations per logit, and the targets' ids read.

    Forward subtracts the maximum, takes the exponential, and adds up; backward divides and scales.
    Fused with the head, whose inputs and weights are counted there, it moves no logits.
    """
    return Work(5 * tokens * shape.vocab_size, ID_BYTES * tokens)


def optimizer(shape: Shape, element: int) -> Work:
    """AdamW: parameter, gradient, and two moments read, all but the gradient written: 7 P elements.

    14 operations per parameter: 1 for the decay, 2 and 4 for the moments, 7 for the update.
    """
    parameters = parameter_count(shape, shape.vocab_size)
    return Work(14 * parameters, 7 * element * parameters)


def least_seconds(record: dict) -> dict[str, float]:
    """By part, the seconds that a step of this record needs at the measured ceilings.

    Empty where a ceiling of its format was not measured, and for steps of several processes.
    """
    ceilings, form = record["ceilings"], record["format"]
    several = (record.get("processes") or 1) > 1
    stored = record["recipe"]["dtype"].removeprefix("torch.")
    if several or not {form, "copy"} <= ceilings.keys():
        return {}
    shape = Shape(**record["settings"]["shape"])
    work = least_work(shape, record["measurement"]["tokens_per_step"], BYTES[stored])
    return {part: w.seconds(ceilings[form], ceilings["copy"]) for part, w in work.items()}
