"""6. Inductor's settings.

Changes: for a command that calls torch.compile: kernels chosen by timing them (max-autotune),
their calls in C++ rather than Python, and on NVIDIA's GPUs their launches in CUDA graphs. Each is
tried.
Why faster: max-autotune finds faster matrix products for the shapes at hand; the other two take
the time of the host, where that is what a step waits for.
Cost: compilation takes minutes more; CUDA graphs hold memory of their own.
When not: with shapes that change from step to step. Whether a graph is replayed is not seen here.
Source: torch/_inductor/config.py: max_autotune, cpp_wrapper, triton.cudagraphs.
Expected: nothing to 1.2 times; more where a GPU's steps take few milliseconds.
"""

from dataclasses import replace

from common.engine.contract import DoesNotApply, Numerics
from common.workloads.command.recipe import CommandRecipe, already_set
from common.workloads.command.session import CommandSession

CHANGES = ("inductor",)
NUMERICS = Numerics.ROUNDING
TUNED = "TORCHINDUCTOR_MAX_AUTOTUNE"
CHOICES = {"max-autotune": TUNED, "C++ wrapper": "TORCHINDUCTOR_CPP_WRAPPER"}
GRAPHS = {"CUDA graphs": "TORCHINDUCTOR_CUDAGRAPHS"}


def applies(device, recipe: CommandRecipe) -> str | None:
    return already_set(*CHOICES.values(), *GRAPHS.values())


def in_effect(run: CommandSession) -> str:
    run.program.prove(run.recipe.inductor)
    if not (files := run.program.compiled_files()):
        raise DoesNotApply("no file of inductor's is mapped: the command does not compile")
    return f"{run.recipe.inductor[0]}; {files} compiled files mapped"


def apply(recipe: CommandRecipe) -> CommandRecipe:
    return replace(recipe, inductor=(f"{TUNED}=1",))


def candidates(device, recipe: CommandRecipe) -> dict[str, CommandRecipe]:
    names = CHOICES | (GRAPHS if device.vendor == "nvidia" else {})
    return {label: replace(recipe, inductor=(f"{name}=1",)) for label, name in names.items()}
