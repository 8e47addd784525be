"""Follow one training's memory: python -m ladders.memory.track --preset tiny

Counts the bytes of all tensors through build, forward, backward, and update, and names the lines
whose memory grew from step to step. For a training of your own see common/memory/tracker.py. On
CUDA the allocator's snapshot is left as well, for pytorch.org/memory_viz.
"""

import textwrap
from dataclasses import replace
from pathlib import Path

import torch

from common.accelerator.device import describe_in_child, pick_type
from common.engine.device import DeviceFacts
from common.engine.errors import UserError
from common.engine.options import Parser, output_folder, whole, writable_folder
from common.gpt.text import Endless, Windows, read_text, read_tokens, split
from common.memory.growth import LEAST_STEPS, MIB
from common.memory.tracker import Phase, Tracker
from common.workloads.train.batches import make_loader, to_device
from common.workloads.train.build import build, train_step
from common.workloads.train.options import Chosen, add_workload_options, chosen
from common.workloads.train.session import DATA_SEED
from ladders.memory import LADDER

MOST_STEPS = 10_000  # what is alive at the end of each is kept, by line
MOST_LINES = 8  # that are named, of those whose memory grew


def make_parser() -> Parser:
    parser = Parser(prog="python -m ladders.memory.track", description=__doc__.splitlines()[0])
    add_workload_options(parser)
    add = parser.add_argument_group("tracking").add_argument
    steps = f"updates to follow, from {LEAST_STEPS} on; default: 6"
    add("--steps", type=whole(LEAST_STEPS, MOST_STEPS), default=6, metavar="N", help=steps)
    rung = f"of the memory ladder, 0 to {LADDER.top}; default: the plain baseline"
    add("--rung", type=whole(0, LADDER.top), metavar="N", help=rung)
    where = "where CUDA's snapshot goes; default: results"
    add("--out", type=output_folder, default=Path("results"), metavar="DIR", help=where)
    return parser


def with_rung(work: Chosen, rung: int | None, device: DeviceFacts) -> Chosen:
    """The work with the memory ladder's recipe, where a rung was asked for. Raises UserError."""
    if rung is None:
        return work
    foot = LADDER.foot(work.recipe, device)
    numbers = LADDER.applicable(LADDER.chain(rung), foot, device)
    recipe = LADDER.compose(foot, numbers)
    if rung and rung not in numbers:
        raise UserError(f"--rung {rung}: {LADDER.rung(rung).applies(device, recipe)}")
    return replace(work, recipe=recipe)


def train(
    work: Chosen, windows: Windows, device: torch.device, steps: int, tracker: Tracker
) -> None:
    """So many updates as the ladder makes them, of the recipe that was chosen."""
    with tracker:
        run = build(work.recipe, work.shape, device)
        tracker.follow(run.objective, run.optimizer)
        batches = iter(make_loader(windows, work.recipe, Endless(windows, DATA_SEED)))
        for _ in range(steps):
            train_step(run, *to_device(work.recipe, device, *next(batches)))
            tracker.step()


def table(tracker: Tracker) -> str:
    """The phases of the build, of the first step, and of the last one; at most 80 columns."""
    lines = [f"{'MiB of tensors':<28}{'change':>12}{'peak':>12}{'at its end':>12}"]
    before, shown = None, (0, 1, tracker.steps)
    for phase in tracker.summary():
        if phase.step in shown:
            name = f"step {phase.step}" if phase.step and phase.step != before else ""
            lines.append(line(name, phase))
            before = phase.step
    return "\n".join(lines)


def line(step: str, phase: Phase) -> str:
    change, peak, after = (size / MIB for size in (phase.change, phase.peak, phase.after))
    return f"{step:<10}{phase.name:<18}{change:>+12,.2f}{peak:>12,.2f}{after:>12,.2f}"


def peaks(tracker: Tracker) -> str:
    """The steps' peaks, in a sentence."""
    by_step: dict[int, int] = {}
    for phase in tracker.summary():
        if 0 < phase.step <= tracker.steps:
            by_step[phase.step] = max(by_step.get(phase.step, 0), phase.peak)
    later = {by_step[step] for step in range(2, tracker.steps + 1)}
    if len(later) == 1:
        return f"Steps 2 to {tracker.steps} have one peak: {later.pop():,} bytes."
    return f"Peaks of steps 2 to {tracker.steps}: {min(later):,} to {max(later):,} bytes."


def growth(tracker: Tracker) -> list[str]:
    """What grew, a sentence each; or that nothing did."""
    leaks = tracker.leaks()
    if not leaks and not tracker.graphs:
        return [f"Nothing grew from step 2 to step {tracker.steps}."]
    lines = [f"Grew from step 2 to step {tracker.steps}:"] if leaks else []
    lines += [f"- {leak}" for leak in leaks[:MOST_LINES]]
    if more := leaks[MOST_LINES:]:
        rest = sum(leak.per_step for leak in more) / MIB
        lines.append(f"- {rest:,.2f} MiB a step from {len(more)} more lines")
    return lines + [f"- {graph}" for graph in tracker.graphs]


def to_text(tracker: Tracker) -> str:
    """All that was seen."""
    said = [peaks(tracker), *growth(tracker)]
    wrapped = [textwrap.fill(one, 80, break_long_words=False) for one in said]
    return "\n".join([table(tracker), "", *wrapped])


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    device = describe_in_child(pick_type(options.device))
    work = with_rung(chosen(options, device), options.rung, device)
    windows, _ = split(read_tokens(read_text(options.text)), work.shape)
    snapshot = None
    if device.type == "cuda":
        snapshot = writable_folder("--out", options.out) / "memory_snapshot.pickle"
    tracker = Tracker(snapshot)
    train(work, windows, torch.device(device.type), options.steps, tracker)
    shape = work.shape
    about = (
        f"{work.preset}: {shape.layers} layers, {shape.heads} heads, width {shape.emb_dim}, "
        f"context {shape.context}, batch {work.recipe.batch_size}; {device.name}"
        + ("" if options.rung is None else f"; memory rung {options.rung}")
    )
    print(f"{textwrap.fill(about, 80)}\n\n{to_text(tracker)}")
    if snapshot:
        print(f"Open {snapshot} at pytorch.org/memory_viz")
    return 0
