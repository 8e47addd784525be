"""What one update needs, by formula: the bytes of all tensors that are alive at its high points.

P parameters of w bytes, s bytes of optimizer state for each. A micro-batch of n tokens, b T; L
blocks of width C with H heads; V rows in the vocabulary. Each storage counts once.

resident   P (w + s). P w more where gradients stay while tokens are worked on: with the second
           micro-batch, or if they are zeroed instead of freed.
copies     Under autocast, the matrices in 16 bits, from their first product to the backward pass;
           the head's to the end, if its loss is in chunks.
kept       For the backward pass, in each block: 16 n C elements (inputs and outputs of two norms,
           query, key, value, attention's output, and 4 + 4 around the GELU), and a few for each
           token. Under autocast 40 n C bytes: norms and shortcuts stay float32, each product
           converts its own input. If the block is checkpointed, n C: its input. After the blocks
           the last norm's input and output.
logits     3 n V elements: the log-softmax and two gradients of it. In chunks of R tokens 12 R V
           bytes in every format: the last chunk's gradient, this one's logits, and their softmax,
           in float32; beside them the head's gradient, V C, which adds up in one place.
block      In its backward pass: 5 n C gradients, and the gradient of a matrix, 4 C^2. If it is
           checkpointed, also all that it keeps, made again.
all        At the end of the backward pass and in the update all gradients, P w; with those that
           are to be added to others the embedding's twice. The optimizer takes nothing for
           itself if it is fused, twice the embedding in a loop, and P w if it is for-each.

Source: read off the operators that torch 2.13 runs on CPUs; tests/test_memory_table.py holds it to
what is counted. On GPUs masks of dropout are a quarter as large.
"""

from dataclasses import dataclass

import torch

from common.gpt.model import parameter_count
from common.gpt.shape import Shape
from common.workloads.train.choices import Choices
from common.workloads.train.recipe import Recipe
from common.workloads.train.update import OnDevice

LEAST_CHUNKS = 4  # of a window, in a chunked loss
IDS = 16  # bytes of a token's id and of its target's


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The bytes that one update of a shape needs, as the text above has them."""

    shape: Shape
    choices: Choices

    @property
    def peak(self) -> float:
        """The most that is alive at a time."""
        return max(sum(terms.values()) for terms in self.moments().values())

    def at_peak(self) -> tuple[str, dict[str, float]]:
        """When that is, and its terms."""
        return max(self.moments().items(), key=lambda moment: sum(moment[1].values()))

    def moments(self) -> dict[str, dict[str, float]]:
        """The bytes of each term by moment; one of them is the peak."""
        last = self.shape.layers - 1
        return {
            "at the end of the forward pass": self.at_the_logits(),
            "at the loss": self.at_the_loss(),
            "after the loss": self.after_the_loss(),
            "in the last block's backward pass": self.in_backward(done=0),
            "in the first block's backward pass": self.in_backward(done=last),
            "at the end of the backward pass": self.at_the_end(),
            "at the update": self.at_the_update(),
        }

    # -- sizes --

    @property
    def parameters(self) -> int:
        return parameter_count(self.shape, self.choices.vocab_size)

    @property
    def tokens(self) -> float:
        """Of a micro-batch."""
        return self.choices.batch / self.choices.parts * self.shape.context

    @property
    def rows(self) -> float:
        """Tokens whose logits are there at a time."""
        most = max(1, self.shape.context // LEAST_CHUNKS)
        return min(self.choices.rows, most) if self.choices.rows else self.tokens

    @property
    def vocabulary(self) -> int:
        """Bytes of the head's weights, and of the embedding's."""
        return self.choices.vocab_size * self.shape.emb_dim * self.choices.weight

    @property
    def adds(self) -> bool:
        """Whether gradients are there before a backward pass begins."""
        return self.choices.parts > 1 or self.choices.keeps_gradients

    def resident(self) -> dict[str, float]:
        c, parameters = self.choices, self.parameters
        mask = self.shape.layers * self.shape.context**2 if c.stored_mask else 0
        return {
            "weights": parameters * c.weight + mask,
            "optimizer state": parameters * c.state,
            "gradients": parameters * c.weight if self.adds else 0,
            "ids": IDS * c.batch * self.shape.context,
        }

    def copies(self, blocks: int, head: int = 1) -> float:
        """The matrices of so many blocks, and of the head or not, in 16 bits, under autocast."""
        if not self.choices.autocast:
            return 0
        width = self.shape.emb_dim
        return 2 * (head * self.choices.vocab_size * width + 12 * width**2 * blocks)

    def input_of_block(self) -> float:
        return self.shape.emb_dim * self.choices.weight

    def whole_block(self) -> float:
        """Bytes of a token that a block keeps without checkpointing."""
        c, width, heads = self.choices, self.shape.emb_dim, self.shape.heads
        scores = heads * self.shape.context
        held = 40 * width if c.autocast else 16 * width * c.weight
        numbers = 2 * width * c.dropout + 12 * width * c.plain_activation
        numbers += 4 * width - 2 if c.plain_norm else 0
        numbers += 4  # of two norms: mean and deviation
        if c.plain_attention:
            numbers += scores * (3 if c.dropout else 1)
        return held + numbers * c.weight + (0 if c.plain_attention else 4 * heads)

    def kept(self, blocks: float, of_one: float) -> float:
        """Bytes that so many blocks keep, and one whose backward pass is at work."""
        each = self.input_of_block() if self.choices.checkpointed else self.whole_block()
        return self.tokens * (each * blocks + of_one)

    def around_the_head(self) -> float:
        """Bytes of a token: the last norm's input and output."""
        c, width = self.choices, self.shape.emb_dim
        output = 2 if c.autocast else c.weight
        norm = (2 * width + 1 if c.plain_norm else 2) * c.weight
        return width * (c.weight + output) + norm + width * c.weight * c.dropout

    # -- moments --

    def before_backward(self) -> dict[str, float]:
        """What is there when the loss has been taken."""
        layers = self.shape.layers
        held = 0 if self.choices.checkpointed else layers
        kept = self.kept(layers, self.around_the_head())
        return self.resident() | {"copies": self.copies(held), "kept": kept}

    def at_the_logits(self) -> dict[str, float]:
        """Before the backward pass: autocast still holds a copy of every matrix, and converts."""
        c = self.choices
        if not c.autocast:
            return self.before_backward()
        each = 6 if c.rows else 10  # bytes: three in 16 bits; or 2, 4, and the log-softmax's 4
        logits = self.rows * c.vocab_size * each
        return self.before_backward() | {"copies": self.copies(self.shape.layers), "logits": logits}

    def at_the_loss(self) -> dict[str, float]:
        """With what is made of the logits; of those of a chunk, in its backward pass."""
        c = self.choices
        if c.rows:
            logits = {"logits": 12 * self.rows * c.vocab_size}
            return self.before_backward() | logits | self.gradients_of_head()
        each = c.vocab_size * (4 if c.autocast else c.weight)
        return self.before_backward() | {"logits": 3 * self.tokens * each}

    def after_the_loss(self) -> dict[str, float]:
        """With the head's gradient, which autocast converts to the weights' format."""
        c = self.choices
        converted = self.vocabulary + 2 * self.tokens * self.shape.emb_dim if c.autocast else 0
        logits = 0 if c.rows else self.tokens * c.vocab_size * (2 if c.autocast else c.weight)
        found = {"logits": logits, "converted gradient": converted}
        return self.before_backward() | found | self.gradients_of_head()

    def gradients_of_head(self) -> dict[str, float]:
        """Of its weights and of its input, in the product's format."""
        c, width = self.choices, self.shape.emb_dim
        each = 2 if c.autocast else c.weight
        return {
            "head's gradient": c.vocab_size * width * each,
            "its input's gradient": self.tokens * width * each,
        }

    def in_backward(self, done: int) -> dict[str, float]:
        """In a block's backward pass, when those of so many blocks are over."""
        c, width, left = self.choices, self.shape.emb_dim, self.shape.layers - done
        again = self.whole_block() - self.input_of_block() if c.checkpointed else 0
        gradients = 14 * width if c.autocast else 5 * width * c.weight
        new = self.vocabulary + done * 12 * width**2 * c.weight
        found = self.resident() | {
            "copies": self.copies(1 if c.checkpointed else left, head=bool(c.rows)),
            "kept": self.kept(left, again),
            "block": self.tokens * gradients + 4 * width**2 * (2 if c.autocast else c.weight),
        }
        if not (self.adds or c.in_backward):
            found["gradients"] = new
        return found

    def at_the_end(self) -> dict[str, float]:
        """With all gradients, the embedding's being the last."""
        more = self.vocabulary if self.adds else 0
        return self.with_gradients() | {
            "copies": self.copies(0, head=bool(self.choices.rows)),
            "embedding's gradient": more,
            "block": self.tokens * self.input_of_block(),
        }

    def at_the_update(self) -> dict[str, float]:
        c = self.choices
        own = c.scratch * min(c.piece, c.vocab_size * self.shape.emb_dim)
        if not c.fused:
            in_loop = c.in_loop or c.in_backward
            own = 2 * self.vocabulary if in_loop else self.parameters * c.weight
        return self.with_gradients() | {"optimizer's own": own}

    def with_gradients(self) -> dict[str, float]:
        c = self.choices
        every = self.vocabulary if c.in_backward else self.parameters * c.weight
        return self.resident() | {"gradients": every}


def needs(shape: Shape, recipe: Recipe, device_type: str = "cpu") -> Needs | None:
    """What an update by a recipe needs; None where the formula does not know its parts."""
    adamw = recipe.optimizer is torch.optim.AdamW or hasattr(recipe.optimizer, "state_bytes")
    if recipe.block.recomputed is None or recipe.kept is not OnDevice or not adamw:
        return None
    return Needs(shape=shape, choices=Choices.of(recipe, shape, device_type))
