"""Before a rung is timed: are its batches those that it declares, and do they train the same?

On a few made-up documents, one of a single token and some longer than the context, two epochs of
the recipe's own batches are looked at. Then the loss and the gradients of all their tokens are
compared with those of one document at a time, in float64.
"""

from collections import Counter
from dataclasses import replace

import torch

from common.engine.contract import NotEquivalent, Numerics
from common.engine.job import Against
from common.gpt.model import GPT
from common.gpt.shape import Shape
from common.workloads.batches import documents
from common.workloads.batches.feed import Fed, Feed
from common.workloads.batches.recipe import FedRecipe
from common.workloads.train.batches import to_device
from common.workloads.train.build import build
from common.workloads.train.equivalence import (
    GradientCheck,
    by_format,
    coarse_weights,
    norm,
    relative_errors,
)
from common.workloads.train.update import IGNORED

WORDS = ("a tensor", "of ids", "the loss", "and its", "gradient", "is kept", "for", "each row")
SIZES = (1, 2, 3, 5, 8, 13, 21, 34)  # of the documents, in words
CONTEXT = 32
SHAPE = Shape(layers=2, heads=2, emb_dim=16, context=CONTEXT)
ROWS = 3  # in a batch
LIMIT = 1e-9  # relative, in float64
LEAK = 0.1  # of the loss, where documents that share a row do see each other
SEED = 5

Answers = dict[str, torch.Tensor]


def made_up() -> documents.Documents:
    """Documents that differ from their first token on."""
    texts = (
        " ".join(WORDS[(n * n + place * n) % len(WORDS)] for place in range(size))
        for n, size in enumerate(SIZES, start=1)
    )
    return documents.of("made up", ["x", *(f"{n} {text}" for n, text in enumerate(texts))])


DOCUMENTS = made_up()


def feed_of(recipe: FedRecipe, device: torch.device) -> Feed:
    numbers = range(len(DOCUMENTS.texts))
    return Feed(replace(recipe, batch_size=ROWS), DOCUMENTS, numbers, CONTEXT, device, SEED)


def epochs(recipe: FedRecipe, device: torch.device, count: int = 2) -> list[list[Fed]]:
    """All batches of the first epochs."""
    feed = feed_of(recipe, device)
    return [list(feed.transfer(feed.epoch(), device)) for _ in range(count)]


def check(recipe: FedRecipe, against: Against, device: torch.device) -> GradientCheck:
    """Raises NotEquivalent if the recipe is not fed what its rung declares."""
    own = epochs(recipe, device)
    every = [tokens_of(number) for number in range(len(DOCUMENTS.texts))]
    for batches in own:
        refuse_others(batches, every)
    if against.numerics in (Numerics.EXACT, Numerics.ROUNDING):
        beneath = epochs(against.below, device)
        refuse_other_batches(own, beneath, bitwise=against.numerics is Numerics.EXACT)
    exact = device if device.type != "mps" else torch.device("cpu")  # Metal has no float64
    reference = alone(against.baseline, every, exact)
    if sees_neighbours(recipe, own[0]):
        return leaking(answers(recipe, own[0], exact, torch.float64), reference, against.numerics)
    found = [
        held(answers(recipe, own[0], where, dtype), reference, limit)
        for where, dtype, limit in (
            (exact, torch.float64, LIMIT),
            (device, recipe.dtype, by_format(recipe).gradient),
        )
    ]
    return replace(found[0], claim=against.numerics, formats=("float64", recipe.format))


def tokens_of(number: int) -> list[int]:
    """<|endoftext|>, the document's tokens, <|endoftext|>, cut to what the context holds."""
    ids = documents.stream(DOCUMENTS)
    begin, end = documents.starts(ids)[number : number + 2]
    return ids[begin : end + 1].tolist()[: CONTEXT + 1]


def refuse_others(batches: list[Fed], every: list[list[int]]) -> None:
    """Each document once, each of its targets once, and nothing beside them."""
    fed = Counter(number for batch in batches for number in batch.documents)
    if fed != Counter(range(len(every))):
        raise NotEquivalent(f"an epoch's documents are {sorted(fed.elements())}")
    due = Counter(pair for ids in every for pair in zip(ids, ids[1:], strict=False))
    real = Counter()
    for batch in batches:
        counted = batch.targets != IGNORED
        pairs = zip(batch.inputs[counted].tolist(), batch.targets[counted].tolist(), strict=True)
        real.update(pairs)
    if real != due:
        wrong = ((real - due) + (due - real)).total()
        raise NotEquivalent(f"{wrong} of {due.total()} tokens are not trained on once")


def refuse_other_batches(own: list[list[Fed]], beneath: list[list[Fed]], bitwise: bool) -> None:
    """Whether each batch has the same documents in the same order, and the same tensors."""
    for epoch, below in zip(own, beneath, strict=True):
        if [batch.documents for batch in epoch] != [batch.documents for batch in below]:
            raise NotEquivalent("its batches hold other documents than those of the rung below")
        if bitwise and not all(map(same_tensors, epoch, below)):
            raise NotEquivalent("its batches differ from those of the rung below")


def same_tensors(a: Fed, b: Fed) -> bool:
    """Wherever they are."""
    if (a.extras is None) != (b.extras is None):
        return False
    names = ("inputs", "targets", *(() if a.extras is None else ("extras",)))
    return all(torch.equal(getattr(a, name).cpu(), getattr(b, name).cpu()) for name in names)


def sees_neighbours(recipe: FedRecipe, batches: list[Fed]) -> bool:
    """Whether documents share rows of a model that does not tell them apart."""
    shared = any(len(batch.documents) > len(batch.inputs) for batch in batches)
    return shared and recipe.model is GPT


def answers(
    recipe: FedRecipe, batches: list[Fed], device: torch.device, dtype: torch.dtype
) -> Answers:
    """The mean loss over all tokens of the batches, and its gradients, in float64 on the CPU."""
    run = build(replace(recipe, dtype=dtype, dropout=0.0), SHAPE, device)
    coarse_weights(run)
    total = sum(int((batch.targets != IGNORED).sum()) for batch in batches)
    loss = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        inputs, targets = to_device(recipe, device, batch.inputs, batch.targets)
        part = run.objective(inputs, targets) * (targets != IGNORED).sum() / total
        part.backward()
        loss += part.detach().cpu().double()
    gradients = {name: p.grad.cpu().double() for name, p in run.inner.named_parameters()}
    return {"loss": loss} | gradients


def alone(baseline: FedRecipe, every: list[list[int]], device: torch.device) -> Answers:
    """The same of one document at a time."""
    rows = (torch.tensor([ids]) for ids in every)
    batches = [
        Fed(ids[:, :-1], ids[:, 1:], (n,), (ids.shape[1] - 1,), None) for n, ids in enumerate(rows)
    ]
    return answers(baseline, batches, device, torch.float64)


def held(own: Answers, reference: Answers, limit: float) -> GradientCheck:
    """Raises NotEquivalent where they are further apart than the limit."""
    errors = relative_errors(own, reference)
    worst = max(errors, key=errors.get)
    if errors[worst] > limit:
        raise NotEquivalent(
            f"of one document at a time the {'gradient of ' * (worst != 'loss')}{worst} differs "
            f"by {errors[worst]:.1e}, where {limit:.1e} is allowed"
        )
    loss_error = errors.pop("loss")
    worst = max(errors, key=errors.get)
    return GradientCheck(
        claim=Numerics.DIFFERENT_WORK,
        error=errors[worst],
        where=worst,
        limit=limit,
        loss_error=loss_error,
        grad_norm_error=abs(norm(own) / norm(reference) - 1),
    )


def leaking(own: Answers, reference: Answers, claim: Numerics) -> GradientCheck:
    """Documents that see their neighbours: only the loss stays near. Raises NotEquivalent."""
    if claim is not Numerics.DIFFERENT_WORK:
        raise NotEquivalent(f"declared {claim.value}, but documents in a row see each other")
    errors = relative_errors(own, reference)
    if errors["loss"] > LEAK:
        raise NotEquivalent(f"the loss differs by {errors['loss']:.1e} of one document at a time")
    return GradientCheck(
        claim=claim,
        error=errors["loss"],
        where="loss",
        limit=LEAK,
        loss_error=errors["loss"],
        grad_norm_error=abs(norm(own) / norm(reference) - 1),
        formats=("float64",),
    )
