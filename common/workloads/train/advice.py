"""What to change when memory ran out, in order, with what each change leaves to need."""

from collections.abc import Iterator
from dataclasses import replace

from common.engine.device import GIB
from common.gpt.shape import Shape
from common.workloads.train.choices import Choices
from common.workloads.train.needs import Needs, needs
from common.workloads.train.presets import PRESETS
from common.workloads.train.recipe import LARGEST, Recipe

ROWS = 128  # tokens of a chunk of the loss: the memory ladder's
STATE_BYTES = 2 * (1 + 4 / 256)  # of 8-bit moments: a byte each, and a float32 for 256 of them


def advice(
    shape: Shape, recipe: Recipe, batch: int, free_gib: float, device_type: str = "cpu"
) -> list[str]:
    """Sentences: what the recipe needs at this batch, then each change on top of those before it.

    Ends with the first that needs no more than `free_gib`. The figures are the formula's.
    """
    if recipe.batch_size == LARGEST:
        recipe = replace(recipe, batch_size=batch)
    found = needs(shape, replace(recipe, batch_size=batch), device_type)
    if found is None:
        return []
    when, terms = found.at_peak()
    largest = sorted(terms.items(), key=lambda term: -term[1])[:3]
    parts = ", ".join(f"{name} {in_gib(size)}" for name, size in largest)
    lines = [
        f"A batch of {batch} needs about {in_gib(found.peak)}, most of it {when} ({parts}); the "
        f"device has {free_gib:.1f} GiB. What to change, each on top of those before it:"
    ]
    for words, changed in changes(found, free_gib * GIB):
        fits = changed.peak <= free_gib * GIB
        lines.append(f"- {words}: {in_gib(changed.peak)}" + (", which fits" if fits else ""))
        if fits:
            return lines
    return [*lines, "None of these fits."]


def changes(start: Needs, budget: float) -> Iterator[tuple[str, Needs]]:
    """The changes that help, in order, and what is needed after each."""
    now = start
    for words, fields in steps(start.choices, fewest_parts(start, budget)):
        changed = replace(now, choices=replace(now.choices, **fields))
        if changed.peak < now.peak:
            now = changed
            yield words, now
    for name, smaller in smaller_shapes(now.shape, now.choices):
        yield f"a smaller model, as --preset {name}", replace(now, shape=smaller)


def fewest_parts(start: Needs, budget: float) -> int:
    """Into how many parts a batch must be cut to fit; as many as windows if none is enough."""
    batch = start.choices.batch
    for parts in (n for n in range(start.choices.parts, batch) if batch % n == 0):
        if replace(start, choices=replace(start.choices, parts=parts)).peak <= budget:
            return parts
    return batch


def steps(c: Choices, parts: int) -> list[tuple[str, dict]]:
    """What may be changed of the choices: words and fields. Cheap changes come first."""
    windows = f"{c.batch // parts} window" + ("s" if parts < c.batch else "")
    cut = f"{parts} parts of {windows} whose gradients add up (memory rung 3)"
    plain = {"plain_norm": False, "plain_activation": False, "plain_attention": False}
    return [
        (cut, {"parts": parts}),
        ("a chunked loss (memory rung 4)", {"rows": c.rows or ROWS}),
        ("fused attention, torch's own layers (steps 1, 6, 7)", plain | {"stored_mask": False}),
        ("checkpointed blocks (memory rung 5)", {"checkpointed": True}),
        (
            "bfloat16 throughout (memory rung 8)",
            {"weight": 2, "state": min(c.state, 4.0), "autocast": False},
        ),
        (
            "8-bit moments (memory rung 11)",
            {"state": STATE_BYTES, "fused": True, "piece": 2**18, "scratch": 41},
        ),
    ]


def smaller_shapes(shape: Shape, choices: Choices) -> list[tuple[str, Shape]]:
    """The presets' shapes of fewer parameters, at the shape's context, the largest first."""

    def size(one: Shape) -> int:
        return Needs(shape=one, choices=choices).parameters

    shapes = {
        name: replace(preset.shape, context=shape.context) for name, preset in PRESETS.items()
    }
    found = [(name, one) for name, one in shapes.items() if size(one) < size(shape)]
    return sorted(found, key=lambda pair: -size(pair[1]))


def in_gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
