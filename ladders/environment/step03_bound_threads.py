"""3. Bound threads.

Changes: OpenMP binds each of its threads to a core of its own (OMP_PROC_BIND, OMP_PLACES).
Why faster: a thread that stays finds its data in its core's caches, and in the memory of its own
socket where there are several.
Cost: nothing, if nothing else runs.
When not: beside other programs, or several processes of one command (torchrun): all bind to the
same cores. Data workers start with what the main thread may use, which then is one core.
Source: OpenMP 5.2, section 21.1; GCC, libgomp manual; pytorch/pytorch issue 101850 (the workers).
Expected: a few percent on a machine of several sockets, nothing on a small one.
"""

import sys
from dataclasses import replace

from common.engine.contract import NotInEffect, Numerics
from common.engine.device import allowed_cpus
from common.workloads.command.recipe import CommandRecipe, already_set
from common.workloads.command.session import CommandSession

CHANGES = ("binding",)
NUMERICS = Numerics.ROUNDING
OTHERS = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY")  # other ways to say it


def applies(device, recipe: CommandRecipe) -> str | None:
    if sys.platform != "linux":
        return "the system does not let threads be bound, or be seen to be"
    if allowed_cpus() == 1:
        return "one core is allowed: there is nothing to choose"
    return already_set("OMP_PROC_BIND", "OMP_PLACES", *OTHERS)


def in_effect(run: CommandSession) -> str:
    run.program.prove(run.recipe.binding)
    if not (bound := run.program.bound_threads()):
        raise NotInEffect("none of the command's threads is bound: its OpenMP does not act on it")
    return f"{bound} of {run.program.threads()} threads bound"


def apply(recipe: CommandRecipe) -> CommandRecipe:
    return replace(recipe, binding=("OMP_PROC_BIND=close", "OMP_PLACES=cores"))
