"""Training steps of one process, or of all devices where a rung asks for them."""

from dataclasses import dataclass

from common.engine.workload import Workload
from common.workloads.train.recipe import Recipe
from common.workloads.train.workload import TRAINING, Training


@dataclass(frozen=True, kw_only=True)
class AnyNumber(Training):
    """Each recipe is measured by as many processes as it has."""

    def of(self, recipe: Recipe) -> Workload:
        if recipe.processes == 1:
            return self
        from common.workloads.parallel.workload import PARALLEL  # torch's parts take a second

        return PARALLEL


ANY_NUMBER = AnyNumber(
    address="common.workloads.parallel.any_number:ANY_NUMBER", metrics=TRAINING.metrics
)
