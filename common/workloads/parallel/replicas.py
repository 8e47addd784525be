"""Whole copies of the model that train together: of the parallel ladder, and the steps' last."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.engine.contract import NotInEffect
from common.workloads.parallel.layout import ParallelRun
from common.workloads.parallel.recipe import Replicas


class DataParallel(Replicas):
    """Gradients are averaged in buckets as they become ready."""

    @staticmethod
    def wrap(model: nn.Module, mesh) -> nn.Module:
        # gradients live in the buckets: no second copy
        group = mesh.get_group()
        return DistributedDataParallel(model, process_group=group, gradient_as_bucket_view=True)


def averaged(run: ParallelRun) -> str:
    """How many replicas averaged their gradients. Raises NotInEffect if they did not."""
    reduced = run.sent.get("all_reduce", 0) + run.sent.get("reduce_scatter", 0)
    if run.recipe.data > 1 and reduced < run.memory["gradients"]:
        raise NotInEffect(f"only {reduced:,} bytes were averaged")
    return f"{run.recipe.data} replicas"
