"""What is known of a user's model, and the choices that a rung may make of how it trains."""

from dataclasses import asdict, dataclass, fields

LARGEST = "largest"  # batch_size: double until memory ends
FLOAT32, AUTOCAST, BFLOAT16 = "as it is", "autocast", "bfloat16"  # precision
FUSED, FOREACH, EIGHT_BIT = "fused", "foreach", "8-bit moments"  # optimizer
WHOLE, BLOCKS = "whole", "blocks"  # compile


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """A model as `inspect` found it. Names are those of its modules."""

    name: str  # its class
    parameters: int
    dtype: str  # of the parameters: "float32"
    obeys_size: bool  # whether batch() gives as many samples as it is asked for
    optimizer: str  # its class
    has_fused: bool  # whether it is one of torch's that can be fused
    convolutions: int  # in two dimensions
    products: int  # linear layers and convolutions
    batch_norms: int
    attention: str | None  # what set_attn_implementation would change; None: there is no such
    block: str = ""  # the class of the repeated block
    blocks: tuple[str, ...] = ()
    native: tuple[tuple, ...] = ()  # hand-written modules that torch has, see native.py
    padded: tuple[str, ...] = ()  # layers whose rows are not in 64s, and what is tied to them
    notes: tuple[str, ...] = ()  # what is odd about it, a sentence each


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnRecipe:
    """Every choice a rung may make, at what the user's file does by itself."""

    about: About
    batch_size: int | str  # samples of a step, or LARGEST
    matmul_precision: str = "highest"  # float32 products: "highest" is IEEE, "high" allows TF32
    optimizer: str = ""  # as it is; or FUSED, FOREACH, EIGHT_BIT
    pin_memory: bool = False  # batches are made on the host, pinned, copied without blocking
    precision: str = FLOAT32  # or AUTOCAST, or BFLOAT16 for the weights, too
    channels_last: bool = False
    native: bool = False  # torch's modules in place of hand-written ones
    attention: str = ""  # what set_attn_implementation is called with
    vocab_multiple: int = 1  # rows of wide heads, and of embeddings tied to them
    environment: tuple[str, ...] = ()  # NAME=VALUE, set before the process starts
    compile: str = ""  # not; or the WHOLE model, or its BLOCKS one by one
    compile_mode: str = "default"  # torch.compile's
    checkpoint: bool = False  # blocks keep their input, and compute the rest again
    accumulation: int = 1  # parts of a batch, one after the other

    @property
    def format(self) -> str:
        """The number format of the matrix products: "float32", "tf32", "bfloat16"."""
        if self.precision != FLOAT32:
            return "bfloat16"
        plain = self.about.dtype == "float32"
        return "tf32" if plain and self.matmul_precision == "high" else self.about.dtype

    @property
    def kept(self) -> str:
        """The number format of the parameters."""
        return "bfloat16" if self.precision == BFLOAT16 else self.about.dtype


def to_json(recipe: OwnRecipe) -> dict:
    """Plain values, as they come back from a file: records are compared."""
    return listed(asdict(recipe))


def listed(value):
    if isinstance(value, dict):
        return {name: listed(one) for name, one in value.items()}
    return [listed(one) for one in value] if isinstance(value, list | tuple) else value


def tupled(value):
    return tuple(map(tupled, value)) if isinstance(value, list | tuple) else value


def from_json(values: dict) -> OwnRecipe:
    """The inverse. Raises TypeError or ValueError for what is none; imports nothing."""
    about = About(**{name: tupled(value) for name, value in values["about"].items()})
    recipe = OwnRecipe(**{name: tupled(v) for name, v in values.items()} | {"about": about})
    for field in fields(recipe):
        if field.type in (bool, str) and not isinstance(getattr(recipe, field.name), field.type):
            raise ValueError(f"{field.name} is {getattr(recipe, field.name)!r}")
    return recipe
