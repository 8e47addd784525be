"""2. As many threads as cores.

Changes: OMP_NUM_THREADS, which torch's operators on a CPU go by: as many as the cores that are
allowed here, or half of them (both are tried; half is one thread for each core where two threads
share it).
Why faster: without it a program counts the machine's processors. In a container that may use a
few of many, its threads wait for one another's turn; torchrun sets 1 where nobody says anything.
Cost: nothing.
When not: beside data workers or other programs, which need cores of their own. A command that
calls torch.set_num_threads does what that says, which is not seen from outside.
Source: docs.pytorch.org, CPU threading; Linux, Documentation/admin-guide/cgroup-v2.rst, cpu.max.
Expected: nothing on a machine of one's own, several times in a container with a quota.
"""

from dataclasses import replace

from common.engine.contract import Numerics
from common.engine.device import allowed_cpus
from common.workloads.command.recipe import CommandRecipe, already_set
from common.workloads.command.session import CommandSession

CHANGES = ("threads",)
NUMERICS = Numerics.ROUNDING  # sums are split among threads


def applies(device, recipe: CommandRecipe) -> str | None:
    if allowed_cpus() == 1:
        return "one core is allowed: there is nothing to choose"
    return already_set("OMP_NUM_THREADS")


def in_effect(run: CommandSession) -> str:
    run.program.prove(run.recipe.threads)
    return f"{run.recipe.threads[0]}; {run.program.threads()} threads of all kinds"


def with_threads(recipe: CommandRecipe, threads: int) -> CommandRecipe:
    return replace(recipe, threads=(f"OMP_NUM_THREADS={threads}",))


def apply(recipe: CommandRecipe) -> CommandRecipe:
    return with_threads(recipe, allowed_cpus())


def candidates(device, recipe: CommandRecipe) -> dict[str, CommandRecipe]:
    counts = (allowed_cpus(), allowed_cpus() // 2)
    return {f"{threads} threads": with_threads(recipe, threads) for threads in counts}
