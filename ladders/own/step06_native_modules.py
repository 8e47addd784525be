"""6. Native norms and activations.

Changes: hand-written norms and activations give way to torch's own. They are recognised by their
outputs on probes, at several scales and with random parameters, and keep their parameters.
Why faster: one kernel reads its input once and writes its output once. Written out in Python, a
LayerNorm passes over the tensor six times, GELU eight times, and both keep what is in between.
Cost: parameters may get torch's names: an old checkpoint needs them renamed.
When not: where torch.compile fuses them anyway. What is a function, not a module, is not seen.
Source: docs.pytorch.org/docs/stable/generated/torch.nn.RMSNorm.html, torch.nn.GELU.html
Expected: 1.1 to 1.3 times where such modules are; the check before the clock must agree.
"""

from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.workloads.own.build import Run
from common.workloads.own.recipe import OwnRecipe

CHANGES = ("native",)
NUMERICS = Numerics.ROUNDING


def applies(device, recipe: OwnRecipe) -> str | None:
    if not recipe.about.native:
        return "no module was recognised as a hand-written norm or activation"
    return None


def in_effect(run: Run) -> str:
    names = [name for name, *_ in run.recipe.about.native]
    kinds = [type(run.model.get_submodule(name)) for name in names]
    if foreign := {kind.__name__ for kind in kinds if not kind.__module__.startswith("torch.nn")}:
        raise NotInEffect(f"{', '.join(sorted(foreign))} still in the model")
    return f"{len(kinds)} native modules"


def apply(recipe: OwnRecipe) -> OwnRecipe:
    return replace(recipe, native=True)


def lines(device_type: str, recipe: OwnRecipe) -> list[str]:
    """Each kind once, with the first place of it."""
    found = {}
    for name, kind, epsilon, parameters in recipe.about.native:
        options = f"(width, eps={epsilon:g})" if parameters else "()"
        made = {"GELU tanh": 'GELU(approximate="tanh")'}.get(kind, kind + options)
        if kind == "LayerNorm without bias":
            made = f"LayerNorm(width, eps={epsilon:g}, bias=False)"
        found.setdefault(f"nn.{made}", []).append(name)
    return [f"{made}  # for {names[0]} and {len(names) - 1} more" for made, names in found.items()]
