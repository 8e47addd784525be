"""The data ladder: the same documents at every rung, and none of them sees another."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from common.accelerator.device import describe
from common.cli import run as command
from common.engine.contract import Disturbed, NotEquivalent, NotInEffect, Numerics
from common.engine.job import Against, Job
from common.engine.measure import measure
from common.engine.process import run_job
from common.gpt.model import GPT
from common.gpt.shape import Shape
from common.gpt.text import END_OF_TEXT, encode
from common.workloads.batches import documents as docs
from common.workloads.batches.check import CONTEXT, DOCUMENTS, SHAPE, check, epochs, feed_of
from common.workloads.batches.feed import FixedLength
from common.workloads.batches.plans import Bucketed, Packed, Shuffled, best_fit, padding
from common.workloads.batches.recipe import FedRecipe
from common.workloads.batches.session import FedSession, chosen
from common.workloads.batches.settings import Settings
from common.workloads.batches.sources import InLists, Mapped, Tokenised
from common.workloads.batches.walks import LENGTH, WALKS, Walks, graph, walked
from common.workloads.batches.workload import BATCHES
from common.workloads.train.build import build
from common.workloads.train.update import IGNORED
from ladders.data import LADDER, foot
from ladders.data.step03_dynamic_padding import AsWideAsNeeded
from ladders.data.step05_packing import DocumentGPT, MaskedAttention
from ladders.data.step12_prefetch_to_device import Ahead
from tests.conftest import at_work, climb, width
from tests.dying import Busy, Dying, Forgetful

CPU, HERE = torch.device("cpu"), replace(describe("cpu"), native_bf16=True)
PLAIN = FedRecipe(dropout=0.0, batch_size=4, most_workers=2)
FOOT = foot(PLAIN, HERE)
COSTLY = replace(PLAIN, sample=Walks)
ON_CPUS = range(11)
TINY = Shape(layers=1, heads=2, emb_dim=16, context=32)
SETTINGS = Settings(shape=TINY, documents=12, steps=2)


def recipe_at(number: int, start: FedRecipe = PLAIN, **changes) -> FedRecipe:
    return replace(LADDER.compose(foot(start, HERE), LADDER.chain(number)), **changes)


def checked(recipe: FedRecipe, below: FedRecipe, claim: Numerics):
    return check(recipe, Against(baseline=PLAIN, below=below, numerics=claim), CPU)


def taken(recipe: FedRecipe, settings: Settings = SETTINGS, probe=lambda run: {}) -> dict:
    """The measurement of a recipe, in this process."""
    return measure(lambda: FedSession(recipe, settings, CPU), settings, probe, lambda phase: None)


# -- documents --


def test_every_python_carries_documents_of_uneven_length():
    found = docs.read_documents()
    lengths = np.diff(docs.starts(docs.stream(found)))
    assert len(found.texts) > 2000
    assert 10 < np.median(lengths) < 60 < np.quantile(lengths, 0.9) < 1024 < lengths.max()
    assert docs.read_documents() == found  # from the cache
    assert "docstrings" in found.source


def test_a_damaged_cache_of_docstrings_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    monkeypatch.setattr(docs, "docstrings", lambda folder: ["one", "two", ""])
    found = docs.read_documents()
    assert (found.texts, found.empty) == (("one", "two"), 1)
    (cache,) = tmp_path.glob("docstrings-*.json")
    for damage in (b"", b"[1, 2", b"[1, 2]", b"{}", b"null"):
        cache.write_bytes(damage)
        assert docs.read_documents() == found


def test_a_folder_of_files_is_documents_too(tmp_path):
    for name, text in {
        **{"b.txt": "second", "a.md": "first", "c.TXT": "third", "d/e.txt": "fourth"},
        **{"empty.txt": "", "blank.txt": " \n", ".hidden.txt": "no", ".git/x.txt": "no"},
        "code.py": "no",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = docs.read_documents(str(tmp_path))
    assert found.texts == ("first", "second", "third", "fourth")
    assert found.empty == 2


@pytest.mark.parametrize("source", [Tokenised, InLists, Mapped])
def test_a_source_has_a_documents_tokens_between_two_marks(source):
    made = source(DOCUMENTS)
    for number, text in enumerate(DOCUMENTS.texts):
        assert made.tokens(number).tolist() == [END_OF_TEXT, *encode(text), END_OF_TEXT]
        assert made.tokens(number).dtype == np.int64
    assert made.lengths().tolist() == [len(encode(text)) + 1 for text in DOCUMENTS.texts]


def test_a_mapped_source_is_handed_over_by_its_path():
    import pickle

    sent = pickle.dumps(Mapped(docs.read_documents()))
    assert isinstance(pickle.loads(sent).stream, np.memmap)


# -- plans --


@pytest.mark.parametrize("plan", [Shuffled, Bucketed, Packed])
def test_every_epoch_has_every_document_once_in_another_order(plan):
    lengths = np.random.default_rng(0).integers(1, 33, 200)
    made = plan(range(3, 150), lengths, rows=4, context=32)
    first, second = list(made), list(made)
    assert first != second
    for epoch in (first, second):
        numbers = [number for batch in epoch for row in batch for number in row]
        assert sorted(numbers) == list(range(3, 150))
        assert len(epoch) == len(made)
        assert all(lengths[list(row)].sum() <= 32 for batch in epoch for row in batch)
        assert {len(batch) for batch in epoch[:-1]} <= {4} or plan is Bucketed
    again = plan(range(3, 150), lengths, rows=4, context=32)
    assert list(again) == first


def test_the_best_fit_is_the_fullest_row_that_has_room():
    lengths = np.array([6, 5, 4, 3, 2])
    assert best_fit([0, 1, 2, 3, 4], lengths, 10) == [(0, 2), (1, 3, 4)]


@pytest.mark.parametrize("context", [64, 256, 1024])
def test_packing_wastes_less_than_a_hundredth(context):
    lengths = np.minimum(Mapped(docs.read_documents()).lengths(), context)
    every = range(len(lengths))
    found = [
        padding(list(plan(every, lengths, 16, context)), lengths, layout, context)
        for plan, layout in (
            (Shuffled, FixedLength),
            (Shuffled, AsWideAsNeeded),
            (Bucketed, AsWideAsNeeded),
            (Packed, AsWideAsNeeded),
        )
    ]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.01
    if context == 1024:  # what the lessons of rungs 3 and 4 say, of Python 3.11's
        assert found[:3] == pytest.approx([0.94, 0.82, 0.51], abs=0.04)


def test_documents_of_like_length_are_in_a_bucketed_batch():
    lengths = np.random.default_rng(0).integers(1, 1000, 256)
    for batch in Bucketed(range(256), lengths, rows=4, context=1024):
        inside = lengths[[number for row in batch for number in row]]
        assert np.ptp(inside) < 300


# -- batches --


def test_a_batch_is_padded_with_what_no_loss_counts():
    for batch in epochs(FOOT, CPU, 1)[0]:
        assert batch.inputs.shape == batch.targets.shape == (len(batch.documents), CONTEXT)
        for row, number in enumerate(batch.documents):
            ids = Mapped(DOCUMENTS).tokens(number)[: CONTEXT + 1]
            length = len(ids) - 1
            assert batch.inputs[row, :length].tolist() == ids[:-1].tolist()
            assert batch.targets[row, :length].tolist() == ids[1:].tolist()
            assert set(batch.targets[row, length:].tolist()) <= {IGNORED}


def test_what_is_padded_does_not_change_the_loss():
    torch.manual_seed(0)
    made = build(recipe_at(3, dtype=torch.float64), SHAPE, CPU)
    narrow, wide = epochs(recipe_at(3), CPU, 1)[0][0], epochs(recipe_at(2), CPU, 1)[0][0]
    assert narrow.documents == wide.documents
    losses = [made.objective(batch.inputs, batch.targets).item() for batch in (narrow, wide)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    other = wide.inputs.masked_fill(wide.targets == IGNORED, 7)
    assert made.objective(other, wide.targets).item() == pytest.approx(losses[1], rel=1e-12)


def two_in_a_row(first: str) -> torch.Tensor:
    parts = [[END_OF_TEXT, *encode(text)] for text in (first, " the second of two")]
    return torch.tensor([parts[0] + parts[1]])


@pytest.mark.parametrize(("model", "leaks"), [(DocumentGPT, False), (GPT, True)])
def test_a_document_stands_still_when_its_neighbour_changes(model, leaks):
    attention = {"attention": MaskedAttention} if model is DocumentGPT else {}
    made = build(replace(FOOT, model=model, dtype=torch.float64, **attention), SHAPE, CPU)
    a, b = two_in_a_row(" one"), two_in_a_row(" six")
    second = a.shape[1] - len(encode(" the second of two")) - 1
    with torch.no_grad():
        one, other = made.model(a), made.model(b)
        own = made.model(a[:, second:])
    assert not torch.allclose(one[:, second - 1], other[:, second - 1])
    assert torch.equal(one[:, second:], other[:, second:]) is not leaks
    # positions begin again: it is as if it stood alone
    assert torch.allclose(one[:, second:], own, rtol=1e-12) is not leaks


def test_a_batch_has_memory_of_its_own():
    """Whatever still reads the one before, a copy to a device, say."""
    feed = feed_of(recipe_at(2), CPU)
    batches = list(feed.epoch())
    assert len({batch.inputs.data_ptr() for batch in batches}) == len(batches)


class Logged(Ahead):
    """Says what is done when, without a device."""

    def __init__(self, batches, log: list) -> None:
        self.batches, self.log = batches, log

    def begin(self, batch):
        self.log.append(f"copy {batch}")
        return batch

    def arrived(self, batch):
        self.log.append(f"wait {batch}")
        return batch


def test_the_next_batch_is_on_its_way_before_this_one_is_used():
    log = []
    for batch in Logged([1, 2, 3], log):
        log.append(f"use {batch}")
    assert log == [
        *("copy 1", "copy 2", "wait 1", "use 1", "copy 3", "wait 2", "use 2", "wait 3", "use 3"),
    ]
    assert list(Logged([], [])) == []


# -- samples that cost --


def test_a_walk_keeps_to_the_graph_and_is_the_same_again():
    ids = [5, 6, 7, 5, 8, 9, 10, 11]
    near = graph(ids)
    assert set(near) == set(ids)
    assert 11 not in near[5] or 5 in near[11]
    found = Walks.of(np.array(ids), 3)
    assert found.dtype == np.float32
    assert np.array_equal(found, Walks.of(np.array(ids), 3))
    assert not np.array_equal(found, Walks.of(np.array(ids), 4))
    visits = walked(near, np.random.default_rng(0))
    assert sum(visits.values()) == len(near) * WALKS * (LENGTH - 1)
    assert Walks.of(np.array([5]), 0).tolist() == [0.0]  # nowhere to go


# -- the check --


@pytest.mark.parametrize("number", ON_CPUS)
def test_a_rung_trains_as_one_document_at_a_time(number):
    start = COSTLY if 7 in LADDER.chain(number) else PLAIN
    below = recipe_at(LADDER.rung(number).base, start) if number else start
    found = checked(recipe_at(number, start), below, LADDER.numerics(number))
    assert found.error < (0.1 if number == 6 else 1e-12)
    assert found.claim is LADDER.numerics(number)


class Cut(FixedLength):
    """Loses the end of the longest document."""

    @staticmethod
    def width(filled, context):
        return context


class Blind(DocumentGPT):
    """Positions begin again, but documents see each other."""

    def hidden(self, ids):
        for block in self.blocks:
            block.attention.allowed = torch.ones(ids.shape[1], ids.shape[1], dtype=bool).tril()
        x = self.token_embedding(ids)
        x = x + self.position_embedding(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)


class Counted(Mapped):
    """A token more in each document."""

    def tokens(self, number):
        return np.append(super().tokens(number), 11)


@pytest.mark.parametrize(
    ("changes", "claim", "said"),
    [
        ({"plan": Bucketed}, Numerics.ROUNDING, "other documents than"),
        ({"layout": AsWideAsNeeded}, Numerics.EXACT, "differ from those of the rung below"),
        ({"plan": Forgetful}, Numerics.DIFFERENT_WORK, "an epoch's documents are"),
        ({"source": Counted}, Numerics.DIFFERENT_WORK, "are not trained on once"),
        ({"plan": Packed}, Numerics.ROUNDING, "other documents than"),
        ({"plan": Packed, "model": Blind, "attention": MaskedAttention}, None, "differs by"),
    ],
)
def test_what_a_rung_does_not_declare_is_found(changes, claim, said):
    below = recipe_at(2)
    with pytest.raises(NotEquivalent, match=said):
        checked(replace(below, **changes), below, claim or Numerics.DIFFERENT_WORK)


# -- a session --


def test_a_step_is_an_epoch_of_the_same_tokens():
    found = [taken(recipe_at(number)) for number in (2, 3, 5)]
    tokens = {one["tokens_per_step"] for one in found}
    lengths = np.minimum(Mapped(docs.read_documents()).lengths(), TINY.context)
    assert tokens == {int(lengths[chosen(docs.read_documents(), 12)].sum())}
    assert [one["feed"]["batches"] for one in found][:2] == [3, 3]
    assert [len(one["losses"]) for one in found] == [4, 4, 4]  # epochs, two of them to warm up
    paddings = [one["feed"]["padding"] for one in found]
    assert paddings == sorted(paddings, reverse=True)
    assert found[0]["losses"][0] == pytest.approx(found[1]["losses"][0], rel=0.02)
    assert all(0 < one["data_wait_s"] < one["window_s"] for one in found)
    assert all(one["feed"]["worker_bytes"] is None for one in found)


def test_an_epoch_that_leaves_out_a_document_is_void():
    with pytest.raises(Disturbed, match="documents too often or not at all"):
        taken(recipe_at(2, plan=Forgetful))


WITHOUT = {1: "source", 3: "layout", 4: "plan", 5: "plan"}


@pytest.mark.parametrize(("number", "without"), WITHOUT.items())
def test_a_rung_without_its_change_is_not_in_effect(number, without):
    rung, below = LADDER.rung(number), recipe_at(LADDER.rung(number).base)
    settings = replace(SETTINGS, shape=replace(TINY, context=128))  # few are so long
    good = taken(recipe_at(number), settings, lambda run: {"seen": rung.in_effect(run)})
    assert good["in_effect"]["seen"]
    idle = replace(recipe_at(number), **{without: getattr(below, without)})
    with pytest.raises(NotInEffect):
        taken(idle, settings, lambda run: {"seen": rung.in_effect(run)})


def test_workers_are_ours_and_are_weighed():
    found = taken(recipe_at(9, source=Busy, workers=1), replace(SETTINGS, documents=40))
    assert 2**20 < found["feed"]["worker_bytes"] < 2**30
    window_s, own = found["window_s"], found["cpu_share"]
    assert own * window_s * psutil.cpu_count() > 0.01
    assert not [p for p in psutil.Process().children() if "python" in p.name()]


def test_a_killed_worker_costs_its_row_and_leaves_nobody():
    job = Job(
        workload=BATCHES,
        recipe=recipe_at(8, source=Dying, workers=2),
        settings=SETTINGS,
        ladder=LADDER.address,
    )
    outcome = run_job(job, timeout=60)
    assert outcome.status == "failed"
    assert "a worker that makes batches died: killed by hand" in outcome.reason
    assert "\n" not in outcome.reason
    assert at_work() == []


# -- measured --


MEASURED = (0, 3, 4, 5, 6, 7, 9)


@pytest.fixture(scope="session")
def data_ladder(tmp_path_factory):
    """Samples that cost, from padding to persistent workers, once."""
    out = tmp_path_factory.mktemp("data-ladder")
    few = ("--preset", "tiny", "--documents", "16", "--workers", "2", "--rounds", "1")
    options = ("--ladder", "data", "--starved", *few, "--only", ",".join(map(str, MEASURED)))
    return out, climb(*options, "--json", "--out", str(out))


def test_every_rung_is_measured(data_ladder):
    out, done = data_ladder
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(out / "ladder.csv").set_index("rung")
    assert table.status.to_dict() == dict.fromkeys(MEASURED, "ok")
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert len({r["measurement"]["tokens_per_step"] for r in records}) == 1
    assert table.padding_waste[0] > table.padding_waste[3] > table.padding_waste[4]
    assert table.padding_waste[5] == table.padding_waste[6] < 0.01
    assert table.index[table.worker_bytes.notna()].tolist() == [9]
    assert table.startup_s.notna().all()
    kept, made = (table.wait_share[n] for n in (7, 5))
    assert kept < 0.5 * made
    # starved, training gets what the loader gives, but for what two epochs differ by
    assert (table.loader_tok_per_s > 0.7 * table.real_tok_per_s).all()


def test_the_table_says_what_a_step_is(data_ladder):
    out, done = data_ladder
    page = (out / "ladder.md").read_text()
    assert "A step is an epoch of 16 of" in page
    assert "are cut to the context of 64" in page
    assert width(done.stdout) <= 80


# -- mistakes --


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--workers", "100000"), "--workers 100000: at most"),
        (("--documents", "1"), "--documents"),
        (("--documents", "999999"), "there are"),
        (("--docs", "/nowhere"), "--docs /nowhere: not a folder"),
    ],
)
def test_a_mistake_is_a_sentence(refusal, tmp_path, options, said):
    start = ["--ladder", "data", "--preset", "tiny", "--out", str(tmp_path)]
    assert said in refusal(command.main, [*start, *options])


def test_a_folder_with_no_document_is_a_sentence(refusal, tmp_path):
    (tmp_path / "a.txt").write_text("only one")
    (tmp_path / "b.txt").write_text("")
    options = ["--ladder", "data", "--docs", str(tmp_path)]
    assert "1 documents with text in them; at least 2" in refusal(command.main, options)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in refusal(command.main, options)
