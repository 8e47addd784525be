"""Training on documents of uneven length, fed ever better: the workload of the ladder `data`."""

import os
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace

import torch

from common.accelerator.compiler import forget_graphs
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.options import whole
from common.engine.workload import Check, Planned
from common.workloads.batches.documents import Documents, read_documents
from common.workloads.batches.metrics import METRICS
from common.workloads.batches.recipe import FedRecipe
from common.workloads.batches.session import FedSession
from common.workloads.batches.settings import Settings
from common.workloads.batches.walks import Walks
from common.workloads.train.metrics import first_measured
from common.workloads.train.workload import MOST_PER_CORE, Training

# in an epoch, which is a step of the clock: seconds at the foot
DOCUMENTS = {"tiny": 16, "cpu": 64}
DOCUMENTS_ELSEWHERE = 512
LEAST_ROWS = 4  # in a batch: fewer have little to fit together
STEPS = {"cpu": 1}  # timed epochs of a process that takes no turns
STEPS_ELSEWHERE = 3


@dataclass(frozen=True, kw_only=True)
class Batches(Training):
    """Training whose headline is how many of the documents' own tokens it gets through."""

    recipe: type[FedRecipe] = FedRecipe
    settings: type[Settings] = Settings
    measures_ceilings: bool = False
    times_its_end: bool = True  # the loader alone

    def options(self, parser: ArgumentParser) -> None:
        super().options(parser)
        add = parser.add_argument_group("documents").add_argument
        folder = "a folder of .txt and .md files; default: the standard library's docstrings"
        add("--docs", metavar="FOLDER", help=folder)
        add("--documents", type=whole(2), metavar="N", help="in an epoch, which is a timed step")
        add("--starved", action="store_true", help="also a graph of each sample, which costs")
        most = "processes that make batches; default: candidates up to the number of cores"
        add("--workers", type=whole(1), metavar="N", help=most)

    def plan(self, options: Namespace) -> Planned:
        cores = os.cpu_count() or 1
        if options.workers and options.workers > MOST_PER_CORE * cores:
            raise UserError(
                f"--workers {options.workers}: at most {MOST_PER_CORE * cores} on this machine's "
                f"{cores} cores"
            )
        documents = read_documents(options.docs)
        planned = super().plan(options)
        every = len(documents.texts)
        many = options.documents or DOCUMENTS.get(planned.preset, DOCUMENTS_ELSEWHERE)
        if options.documents and many > every:
            raise UserError(f"--documents {many}: there are {every:,} with text in them")
        rows = options.batch_size or max(LEAST_ROWS, planned.recipe.batch_size)
        steps = options.steps or STEPS.get(planned.device.type, STEPS_ELSEWHERE)
        own = vars(planned.settings) | {"steps": steps, "warmup": options.warmup or 2}
        settings = Settings(**own, docs=options.docs, documents=min(many, every))
        recipe = FedRecipe.of(
            planned.recipe,
            batch_size=rows,
            sample=Walks if options.starved else FedRecipe().sample,
            most_workers=options.workers or cores,
        )
        return replace(
            planned,
            recipe=recipe,
            settings=settings,
            about=(*told(recipe, settings, documents), planned.about[1]),
            first=self.closely(options, settings),
            turns=planned.preset != "tiny",  # whose rates say nothing: one round, in two minutes
            rounds=1 if planned.preset == "tiny" else planned.rounds,
        )

    def notes(self, records: list[dict]) -> str:
        found = first_measured(records)
        if found is None:
            return super().notes(records)
        fed = counted(found["feed"], records[0]["settings"]["shape"])
        return f"{super().notes(records)}. {fed}"

    def check(
        self, recipe: FedRecipe, against: Against, settings: Settings, device: torch.device
    ) -> Check:
        from common.workloads.batches.check import check

        found = check(recipe, against, device)
        forget_graphs()
        return found

    def build(self, recipe: FedRecipe, settings: Settings, device: torch.device) -> FedSession:
        return FedSession(recipe, settings, device)


def told(recipe: FedRecipe, settings: Settings, documents: Documents) -> tuple[str, str]:
    """Lines to begin with."""
    shape = settings.shape
    left_out = f", {documents.empty} empty ones left out" if documents.empty else ""
    return (
        f"{shape.layers} layers, {shape.heads} heads, width {shape.emb_dim}, "
        f"context {shape.context}, {recipe.batch_size} rows a batch",
        f"an epoch, which is a step: {settings.documents:,} of {len(documents.texts):,} documents "
        f"({documents.source}{left_out})",
    )


def counted(feed: dict, shape: dict) -> str:
    """What is told of the documents below a table."""
    return (
        f"A step is an epoch of {feed['documents']:,} of {feed['of']:,} documents, the median of "
        f"{feed['median']:,} tokens; {feed['cut']:,} of all are cut to the context of "
        f"{shape['context']:,}, {feed['empty']:,} were empty"
    )


BATCHES = Batches(address="common.workloads.batches.workload:BATCHES", metrics=METRICS)
