"""Where the time of a training step goes, layer by layer: of a model that runs eagerly.

A few more steps run under torch's profiler, with a range of its own around every part's forward.
What backward does finds its layer by autograd's sequence numbers: a node has that of the operator
that made it. The model's own lines (the positions, the sum of the embeddings) count as embedding,
a block's own lines (the shortcuts) with its norms. In the objective outside of all layers a matrix
product is the head's, as where the loss makes its logits in chunks; the rest is the loss.

A compiled model is one graph, in which no range can begin without breaking it.
"""

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import record_function

from common.workloads.train.build import Run
from common.workloads.train.parts import (
    GAPS,
    LAYER,
    LOSS,
    NETWORK,
    OPTIMIZER,
    PRODUCTS,
    WAIT,
    WINDOW,
    around,
)
from common.workloads.train.profiling import STEPS, Share, on_device, on_host, watch

EMBEDDING, ATTENTION, FEED_FORWARD = "embedding", "attention", "feed-forward"
NORMS, HEAD, OTHER = "norms and shortcuts", "head", "other"
OF_BLOCKS = (ATTENTION, FEED_FORWARD, NORMS)
LAYERS = (EMBEDDING, *OF_BLOCKS, HEAD, LOSS, OPTIMIZER, NETWORK, OTHER, WAIT, GAPS)
BACKWARD = "autograd::engine::evaluate_function"
ONE_GRAPH, SEVERAL = "one compiled graph", "several processes"

Place = tuple[str, int]  # a layer, and the block's number; 0 where there is one of it


def layers_or_reason(step: Callable[[], None], run: Run) -> dict:
    """{"window_s", "parts"} as `profile_layers` returns them, or {"lacking": why there are none}.

    All that fails here fails after what was measured and costs nothing else.
    """
    if run.recipe.compile:
        return {"lacking": ONE_GRAPH}
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return {"lacking": SEVERAL}  # one that failed would leave the others waiting
    try:
        return profile_layers(step, run)
    except Exception as error:  # the profiler's interface differs between versions of torch
        traceback.print_exc()
        return {"lacking": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def profile_layers(step: Callable[[], None], run: Run) -> dict:
    """Profile STEPS steps with ranges around the layers.

    Returns {"window_s", "parts": {layer: [seconds per step, ...]}}: one number for every block of
    the layers that blocks have, and behind the norms' that of the final norm.
    """
    with ranges(places(run)):
        profile = watch(step, run.device)
    return by_layer(profile.events(), run.device.type, len(run.inner.blocks))


def places(run: Run) -> dict[nn.Module, Place]:
    """The modules that get a range, and what it stands for; an inner range wins."""
    model = run.inner
    found = {run.objective: (LOSS, 0), model: (EMBEDDING, 0), model.head: (HEAD, 0)}
    for number, block in enumerate(model.blocks):
        found[block] = NORMS, number
        found[block.attention] = ATTENTION, number
        found[block.feed_forward] = FEED_FORWARD, number
    found[model.token_embedding] = found[model.position_embedding] = EMBEDDING, 0
    found[model.final_norm] = NORMS, len(model.blocks)
    return found


@contextmanager
def ranges(found: dict[nn.Module, Place]) -> Iterator[None]:
    """A range of the profiler around each module's forward, for as long as the block lasts."""
    handles, entered = [], []

    def enter(name: str):
        def before(*_) -> None:
            entered.append(record_function(name))
            entered[-1].__enter__()

        return before

    def leave(*_) -> None:
        entered.pop().__exit__(None, None, None)

    try:
        for module, (layer, number) in found.items():
            name = f"{LAYER}{layer} {number}"
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave))
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_layer(events: Iterable, device_type: str, blocks: int) -> dict:
    """The window in `events` summed up, as `profile_layers` returns it."""
    events = list(events)
    window = next(e for e in events if e.name == WINDOW and e.device_type == DeviceType.CPU)
    made = makers(events)
    numbers = dict.fromkeys(OF_BLOCKS, blocks) | {NORMS: blocks + 1}
    parts = {layer: [0.0] * numbers.get(layer, 1) for layer in LAYERS}
    for share in (on_host if device_type == "cpu" else on_device)(events, window):
        layer, number = place_of(share, made)
        parts[layer][number] += share.seconds / STEPS
    return {"window_s": window.time_range.elapsed_us() / 1e6, "parts": parts}


def makers(events: list) -> dict[int, Place]:
    """By sequence number: where the operator ran that made the node which backward runs.

    A number is that of the next node to be made: of operators that have the same one, the last
    made it.
    """
    found = {}
    host = [e for e in events if e.device_type == DeviceType.CPU and e.sequence_nr >= 0]
    for event in sorted(host, key=lambda e: e.time_range.start):
        place = nearest(event, {})
        if place is not None:
            found[event.sequence_nr] = place
    return found


def nearest(event, made: dict[int, Place]) -> Place | None:
    """The place of the innermost range, or of what made the node that backward runs."""
    for one in (event, *around(event)):
        if one.name.startswith(LAYER):
            layer, _, number = one.name.removeprefix(LAYER).rpartition(" ")
            return layer, int(number)
        if one.name.startswith(BACKWARD):
            return made.get(one.sequence_nr)
    return None


def place_of(share: Share, made: dict[int, Place]) -> Place:
    """The layer that some seconds went to."""
    if share.part in (OPTIMIZER, NETWORK, WAIT, GAPS, LOSS):
        return share.part, 0
    place = nearest(share.source, made) if share.source else None
    if place == (LOSS, 0) and share.part == PRODUCTS:
        return HEAD, 0
    return place or (OTHER, 0)
