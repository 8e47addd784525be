"""What workloads of one process share, and what those of a GPT-2: recipes with classes in them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from common.accelerator.compiler import compile_cache, empty_compile_cache
from common.accelerator.device import torch_facts
from common.engine.device import DeviceFacts, container_quota, threads_allowed
from common.engine.process import Outcome
from common.engine.workload import Launch, Workload
from common.workloads.train.metrics import first_measured
from common.workloads.train.settings import ModelSettings

# how a reason begins where the child raised an error of its own, or crashed
BROKE = re.compile(r"\w+: |killed by SIG(SEGV|BUS|ILL|ABRT)")


@dataclass(frozen=True, kw_only=True)
class TorchWorkload(Workload):
    """One process, one device of torch's."""

    def facts(self, device: DeviceFacts) -> dict:
        return torch_facts(device)

    def launch(self, recipe) -> Launch:
        # torch sees an affinity, but no container's quota, and then has too many threads
        limits = {"OMP_NUM_THREADS": str(threads_allowed())} if container_quota() else {}
        return Launch(environment=limits)


@dataclass(frozen=True, kw_only=True)
class Compiling(TorchWorkload):
    """Its recipes have a field `compile`: what is compiled is kept for other processes."""

    def launch(self, recipe) -> Launch:
        return Launch(environment=compile_cache() | super().launch(recipe).environment)

    def again(self, recipe, outcome: Outcome) -> str:
        """A compiled rung that broke is tried with an empty cache: a kill may have damaged it."""
        if not (recipe.compile and outcome.status == "failed" and BROKE.match(outcome.reason)):
            return ""
        return "compiled with an empty cache" if empty_compile_cache() else ""


@dataclass(frozen=True, kw_only=True)
class ModelWorkload(TorchWorkload):
    """Its recipes have `to_json`, `from_json`, and `from_record`, as `Recipe` has."""

    settings: type[ModelSettings] = ModelSettings
    must_agree: tuple[str, ...] = ()  # settings beside the shape, of runs that are compared
    called: str = "shapes"  # what these and the shape are for people

    # -- in reports --

    def given(self, records: list[dict]) -> dict:
        found = first_measured(records)
        return {
            "text": found and found["text_sha256"][:12],
            "weights": found and found["weights"]["source"],
        }

    def unlike(self, a: dict, b: dict) -> str:
        one, other = ({**r["settings"], **r["settings"]["shape"]} for r in (a, b))
        # a setting that came later is missing in older records
        pairs = {k: (one.get(k), other.get(k)) for k in (*a["settings"]["shape"], *self.must_agree)}
        fields = [f"{k} {own} and {its}" for k, (own, its) in pairs.items() if own != its]
        return f"different {self.called}: {', '.join(fields)}" if fields else ""

    # -- in the process that measures --

    def dump(self, recipe) -> dict:
        return recipe.to_json()

    def load(self, values: dict):
        return self.recipe.from_json(values)

    def recall(self, values: dict):
        return self.recipe.from_record(values)

    def load_settings(self, values: dict) -> ModelSettings:
        return self.settings.from_json(values)

    @contextmanager
    def place(self, recipe, settings: ModelSettings) -> Iterator[torch.device]:
        yield torch.device(settings.device)


@dataclass(frozen=True, kw_only=True)
class CompilingWorkload(Compiling, ModelWorkload):
    """A GPT-2 that may be compiled."""
