"""Tokens and seconds to a held-out loss: the workload of the ladder `convergence`."""

import math
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass, replace

import torch

from common.accelerator.compiler import forget_graphs
from common.accelerator.device import describe_in_child, pick_type
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.options import whole
from common.engine.plan import Plan
from common.engine.process import Outcome
from common.engine.settle import Trials, Unsettled
from common.engine.workload import Check, Planned, Writer
from common.gpt.shape import Shape
from common.gpt.text import read_text, split
from common.workloads.convergence import metrics
from common.workloads.convergence.pilot import pilot
from common.workloads.convergence.recipe import ConvergenceRecipe
from common.workloads.convergence.session import ConvergenceSession, tokens_of
from common.workloads.convergence.settings import Settings
from common.workloads.train.options import add_workload_options, chosen, norm
from common.workloads.train.workload import Training

# A model is trained from nothing a hundred times: on CPUs one that learns within seconds
SHAPES = {"cpu": Shape(layers=4, heads=2, emb_dim=64, context=64, vocab_size=256)}
TOKENS = {"tiny": 24_576, "cpu": 98_304}  # that a run trains on, by preset
TOKENS_ELSEWHERE = 2**18
BATCH = {"tiny": 4, "cpu": 4}  # windows in an update, by preset
SEEDS = {"tiny": 5}  # rounds, by preset
SEEDS_ELSEWHERE = 12  # a gain of two standard deviations is told in 9 of 10 runs: tests/seeds.py
LEARNING_RATES = (3e-3, 1e-2, 3e-2)  # the same for every rung
LEAST_UPDATES = 24  # one from one evaluation to the next
LARGEST_PART = 4  # of rungs: a larger batch's updates are as many times fewer


@dataclass(frozen=True, kw_only=True)
class Convergence(Training):
    """Training whose headline is how many tokens it takes to a held-out loss."""

    recipe: type[ConvergenceRecipe] = ConvergenceRecipe
    settings: type[Settings] = Settings
    measures_ceilings: bool = False

    # -- in reports --

    def notes(self, records: list[dict]) -> str:
        return metrics.notes(records)

    def advice(self, record: dict) -> list[str]:
        return []

    def unlike(self, a: dict, b: dict) -> str:
        targets = [record["settings"]["target"] for record in (a, b)]
        if targets[0] != targets[1]:
            one, other = (f"{target:.4f}" for target in targets)
            return f"different targets, {one} and {other} (--target sets one)"
        return super().unlike(a, b)

    def extra_results(self, records: list[dict]) -> dict[str, tuple[str, Writer]]:
        return {"convergence": ("convergence.png", lambda path: plot_curves(records, path))}

    def extra_text(self, records: list[dict], closely: bool) -> str:
        return metrics.text_below(records)

    # -- before measuring --

    def options(self, parser: ArgumentParser) -> None:
        add_workload_options(parser)
        add = parser.add_argument_group("training to a loss").add_argument
        many = "bytes of text that each run trains on, at most one pass"
        add("--tokens", type=whole(1), metavar="N", help=many)
        loss = "held-out loss to reach, in nats; default: from a pilot of the foot"
        add("--target", type=norm, metavar="LOSS", help=loss)

    def plan(self, options: Namespace) -> Planned:
        device = describe_in_child(pick_type(options.device))
        work = chosen(options, device)
        given = {k: v for k, v in vars(options).items() if v is not None}
        own = {name: given[name] for name in asdict(work.shape) if name in given}
        shape = replace(SHAPES.get(work.preset, work.shape), vocab_size=256, **own)
        if options.rounds == 1:
            raise UserError(
                "--rounds 1: a round is a seed, and one seed tells no luck from a gain; at least 2,"
                " by default 5 or more"
            )
        recipe = ConvergenceRecipe.of(
            work.recipe,
            batch_size=options.batch_size or BATCH.get(work.preset, work.recipe.batch_size),
            dropout=options.dropout or 0.0,  # of use where a text is read again and again
            learning_rates=LEARNING_RATES,
        )
        windows, _ = split(tokens_of(read_text(options.text)), shape)
        settings = Settings(
            shape=shape,
            device=device.type,
            text=options.text,
            tokens=tokens(options, work.preset, shape, len(windows), recipe.batch_size),
            target=options.target,
        )
        about = (
            f"{shape.layers} layers, {shape.heads} heads, width {shape.emb_dim}, "
            f"context {shape.context}, batch {recipe.batch_size}; {settings.tokens:,} bytes of text"
        )
        return Planned(
            device=device,
            recipe=recipe,
            settings=settings,
            preset=work.preset,
            about=(about,),
            rounds=SEEDS.get(work.preset, SEEDS_ELSEWHERE),
        )

    def prepare(self, plan: Plan) -> Plan:
        """With the target, and the pilot that it comes from. Raises UserError: see reachable."""
        settings, wanted = plan.settings, plan.settings.target
        found = pilot(replace(plan, settings=replace(settings, target=None)), tell)
        target = found["target"] if wanted is None else reachable(wanted, found, settings.tokens)
        tell(f"target: a held-out loss of {target:.3f} nats")
        return replace(plan, settings=replace(settings, target=target, pilot=found))

    # -- what measuring settles --

    def is_open(self, recipe: ConvergenceRecipe) -> bool:
        return bool(recipe.learning_rates)

    def close(
        self, recipe: ConvergenceRecipe, plan: Plan, trials: Trials
    ) -> tuple[ConvergenceRecipe, str]:
        """By the learning rate that reaches the target first; where none does, ends lowest.

        All are tried in one process, with the pilot's seed. The foot's is the pilot's.
        """
        if recipe == plan.baseline:
            found, rate = plan.settings.pilot, plan.settings.pilot["learning_rate"]
            tried = {float(rate): (None, loss) for rate, loss in found["final"].items()}
            return with_rate(recipe, rate), in_words(tried, rate)
        outcome = trials.attempt(recipe, "learning rates")
        if outcome.status != "ok":
            raise Unsettled(outcome.reason, outcome)
        tried = results(outcome)
        if not any(loss is not None for _, loss in tried.values()):
            raise Unsettled(
                "the loss is no number at any learning rate", replace(outcome, status="failed")
            )
        best = min(tried, key=lambda rate: order(*tried[rate]))
        return with_rate(recipe, best), in_words(tried, best)

    def closed_as(self, recipe: ConvergenceRecipe, other: ConvergenceRecipe) -> ConvergenceRecipe:
        return with_rate(recipe, other.learning_rate) if self.is_open(recipe) else recipe

    # -- in the process that measures --

    def check(
        self, recipe: ConvergenceRecipe, against: Against, settings: Settings, device: torch.device
    ) -> Check:
        """Of a whole update, as the optimizer is given it; the others' gradients are clipped alike.

        So a norm that was taken of scaled gradients, or of a part's, is found.
        """
        from common.workloads.train.equivalence import check
        from common.workloads.train.update_check import answers_of_update

        below, baseline = (
            replace(other, clip_norm=recipe.clip_norm)
            for other in (against.below, against.baseline)
        )
        found = check(recipe, below, baseline, against.numerics, device, answers_of_update)
        forget_graphs()
        return found

    def build(
        self, recipe: ConvergenceRecipe, settings: Settings, device: torch.device
    ) -> ConvergenceSession:
        return ConvergenceSession(recipe, settings, device)


def tokens(options: Namespace, preset: str, shape: Shape, windows: int, batch: int) -> int:
    """That a run trains on. Raises UserError where the text has fewer, or they are few updates."""
    most, least = windows * shape.context, LEAST_UPDATES * LARGEST_PART * batch * shape.context
    wanted = options.tokens or min(most, TOKENS.get(preset, TOKENS_ELSEWHERE))
    if wanted > most:
        raise UserError(
            f"--tokens {wanted}: more than one pass over the text; at most {most} (or --text FILE)"
        )
    if wanted < least:
        raise UserError(
            f"--tokens {wanted}: fewer than {LEAST_UPDATES} updates of the largest batch; at "
            f"least {least}"
            + (f", which the text of {most} does not have (--batch-size)" if most < least else "")
        )
    return wanted


def reachable(target: float, found: dict, tokens: int) -> float:
    """The target that was asked for. Raises UserError where the pilot does not cross it."""
    best = found["final"][str(found["learning_rate"])]
    if target < best:
        raise UserError(
            f"--target {target:g}: the pilot ends at {best:.3f} after {tokens:,} tokens; give a "
            "higher one, or more --tokens"
        )
    if target >= found["first"]:
        raise UserError(
            f"--target {target:g}: the pilot begins at {found['first']:.3f}; give a lower one"
        )
    return target


def with_rate(recipe: ConvergenceRecipe, rate: float) -> ConvergenceRecipe:
    return replace(recipe, learning_rate=rate, learning_rates=())


def results(outcome: Outcome) -> dict[float, tuple[float | None, float | None]]:
    """By learning rate: tokens to the target, and the final loss; None: not reached, no number."""
    return {
        float(rate): (one["tokens_to_target"], one["final_loss"])
        for rate, one in outcome.measurement["tuned"].items()
    }


def order(reached: float | None, final: float | None) -> tuple[float, float]:
    """By which one learning rate is better than another: lower is."""
    return tuple(math.inf if value is None else value for value in (reached, final))


def in_words(tried: dict[float, tuple[float | None, float | None]], best: float) -> str:
    """What was tried, for the record: final losses, and tokens to the target where it was there."""
    each = []
    for rate, (reached, final) in tried.items():
        loss = "no number" if final is None else f"{final:.3f}"
        each.append(f"{rate:g} {loss}" + (f" ({reached:,.0f} tokens)" if reached else ""))
    return f"learning rate {best:g}, of (final loss) {', '.join(each)}"


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def plot_curves(records: list[dict], path) -> None:
    from common.workloads.convergence import plot  # matplotlib takes a second to import

    plot.plot_curves(records, path)


CONVERGENCE = Convergence(
    address="common.workloads.convergence.workload:CONVERGENCE", metrics=metrics.METRICS
)
