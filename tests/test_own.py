"""The ladder on a user's own model: what is found in it, what is changed, and what is refused."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from common.accelerator.compiler import compiled_graphs, forget_graphs, from_cache
from common.accelerator.device import describe
from common.cli import run as command
from common.cli.planning import make_plan, parse
from common.engine.child import prober
from common.engine.contract import Disturbed, NotEquivalent, Numerics
from common.engine.errors import UserError
from common.engine.measure import measure
from common.report.attribution import to_attribution
from common.report.page import to_page
from common.report.recommendation import advice, recommendation_markdown, recommendation_text
from common.workloads.own import build as building
from common.workloads.own import change as changing
from common.workloads.own.breaks import Breaks
from common.workloads.own.build import build, fetch, make_model
from common.workloads.own.check import check
from common.workloads.own.inspect import look_at
from common.workloads.own.native import made, recognised
from common.workloads.own.recipe import BLOCKS, OwnRecipe, from_json, to_json
from common.workloads.own.session import OwnSession
from common.workloads.own.settings import Settings
from common.workloads.own.user_file import UserFile, found, hash_of, samples
from ladders.own import LADDER, step09_page_faults
from tests.conftest import PROJECT, SHORT_RUN, fake_record, run

CPU, HERE = torch.device("cpu"), describe("cpu")
FILE = PROJECT / "tests" / "own_model.py"
BATCH = 4
PLAIN = """
import torch
from torch import nn
def model(): return nn.Linear(3, 1)
def batch(batch_size, device): return torch.randn(batch_size, 3, device=device)
def loss(model, batch): return model(batch).square().mean()
"""


@pytest.fixture(scope="module")
def user() -> UserFile:
    return UserFile(FILE)


@pytest.fixture(scope="module")
def plain(user) -> OwnRecipe:
    return OwnRecipe(about=look_at(user, "cpu", BATCH), batch_size=BATCH)


def file_of(tmp_path: Path, *changes: tuple[str, str], text: str = PLAIN) -> UserFile:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "my_model.py").write_text(text)
    return UserFile(tmp_path / "my_model.py")


def stack(number: int, plain: OwnRecipe) -> list[int]:
    """The rung and those under it, of those that apply here without compiling."""
    chain = [n for n in LADDER.chain(number) if n == number or n < 9]
    return LADDER.applicable(chain, plain, HERE)


def here(plain: OwnRecipe) -> list[int]:
    return [n for n in (*range(1, 10), *range(12, 16)) if n in stack(n, plain)]


# -- what is found --


def test_what_is_in_a_model_is_found(plain):
    about = plain.about
    assert (about.name, about.dtype, about.optimizer) == ("Net", "float32", "AdamW")
    assert about.obeys_size
    assert about.notes == ()
    assert about.blocks == ("blocks.0", "blocks.1")
    assert set(about.padded) == {"head", "embedding"}
    assert about.native == (
        ("blocks.0.norm", "LayerNorm", 1e-6, ("scale", "shift")),
        ("blocks.0.act", "GELU tanh", 0.0, ()),
        ("blocks.1.norm", "LayerNorm", 1e-6, ("scale", "shift")),
        ("blocks.1.act", "GELU tanh", 0.0, ()),
    )


def test_a_model_without_what_a_rung_changes_is_told_so(tmp_path):
    about = look_at(file_of(tmp_path), "cpu", BATCH)
    recipe = OwnRecipe(about=about, batch_size=BATCH)
    words = {5: "no two-dimensional", 6: "was recognised", 7: "scaled_dot_product", 8: "no head"}
    words |= {14: "no block repeats"}
    for number, said in words.items():
        assert said in LADDER.rung(number).applies(HERE, recipe)


class Rms(nn.Module):
    """RMSNorm, but for what `wrong` changes."""

    def __init__(self, epsilon: float, wrong: float = 0.0) -> None:
        super().__init__()
        self.weight, self.epsilon, self.wrong = nn.Parameter(torch.ones(8)), epsilon, wrong

    def forward(self, x):
        mean = x.square().mean(-1, keepdim=True)
        return (self.weight + self.wrong) * x * torch.rsqrt(mean + self.epsilon)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-6, 3e-4])
def test_a_norm_is_recognised_with_its_epsilon(epsilon):
    inputs = torch.randn(4, 5, 8)
    assert recognised(Rms(epsilon), inputs) == ("RMSNorm", epsilon, ("weight",))
    native = made("RMSNorm", epsilon, [nn.Parameter(torch.rand(8))])
    assert native.eps == epsilon


def test_what_is_nearly_a_norm_is_not_recognised():
    """Of weights that start at 1 and 0 nobody could tell."""
    assert recognised(Rms(1e-6, wrong=1.0), torch.randn(4, 5, 8)) is None


def test_a_drop_of_whole_samples_is_no_activation():
    class DropPath(nn.Module):
        def forward(self, x):
            return x * (torch.rand(len(x), 1) > 0.5)

    assert recognised(DropPath(), torch.randn(4, 8)) is None


def test_what_calls_torchs_own_kernel_is_not_hand_written():
    class Gelu(nn.Module):
        def forward(self, x):
            return nn.functional.gelu(x)

    assert recognised(Gelu(), torch.randn(4, 8)) is None


def test_natives_keep_the_parameters_and_their_gradients(user, plain):
    model, named = make_model(user, replace(plain, native=True), CPU)
    assert isinstance(model.blocks[0].norm, nn.LayerNorm)
    assert model.blocks[0].norm.weight is named["blocks.0.norm.scale"]
    assert model.blocks[0].norm.bias is named["blocks.0.norm.shift"]


def test_a_padded_head_stays_tied_and_gives_the_columns_of_before(user, plain):
    seen = []
    for multiple in (1, 64):
        model, named = make_model(user, replace(plain, vocab_multiple=multiple), CPU)
        assert model.head.weight is model.embedding.weight
        seen.append(model.eval()(torch.arange(16)[None]))
        assert len(named["embedding.weight"]) % multiple == 0
    assert torch.equal(*seen)


# -- rungs --


def test_the_ladder_is_a_stair_with_branches_on_its_eager_top():
    assert LADDER.stair == [*range(1, 12)]
    assert {rung.number for rung in LADDER.rungs if rung.over == 9} == {*range(12, 17)}
    assert LADDER.chain(14) == [*range(1, 10), 14]


@pytest.fixture(scope="module")
def looked(user, plain) -> dict[int, dict]:
    """Each rung's step, stepped and probed; what the process got before it began is not."""
    found = {}
    settings = Settings(device="cpu", steps=1, warmup=2, file=str(FILE))
    for number in here(plain):
        numbers = [n for n in stack(number, plain) if n != 9]
        recipe = LADDER.compose(plain, numbers)
        probe = prober({"ladder": LADDER.address, "applied": numbers})
        session = OwnSession(user, recipe, settings, CPU)
        found[number] = measure(lambda s=session: s, settings, probe, lambda phase: None)
    return found


def test_each_rung_is_seen_to_act(looked):
    assert {2, 6, 8, 13, 14, 15} <= looked.keys()
    for number, one in looked.items():
        assert number == 9 or str(number) in one["in_effect"]
    assert looked[6]["in_effect"]["6"] == "4 native modules"
    assert looked[8]["in_effect"]["8"] == "1,024 rows"
    assert looked[14]["in_effect"]["14"] == "4 for 2"
    assert looked[15]["in_effect"]["15"] == "2 parts"


def test_memory_rungs_hold_less(looked):
    below = looked[8]["peak_tensor_bytes"]
    for number in (14, 15):  # 8-bit moments' scratch outweighs what they save of so small a model
        assert looked[number]["peak_tensor_bytes"] < below, number


def test_a_step_that_forgets_its_update_is_void(user, plain, monkeypatch):
    settings = Settings(device="cpu", steps=2, warmup=2, file=str(FILE))
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    with pytest.raises(Disturbed, match="the weights did not change"):
        measure(
            lambda: OwnSession(user, plain, settings, CPU), settings, lambda run: {}, lambda p: None
        )


def checked(user, plain, number: int, recipe: OwnRecipe | None = None):
    numbers = stack(number, plain)
    below = LADDER.compose(plain, [n for n in numbers if n != number])
    claim = LADDER.numerics(number)
    return check(user, recipe or LADDER.compose(plain, numbers), below, plain, claim, CPU)


def test_every_rung_computes_what_the_model_does(user, plain):
    for number in here(plain):
        result = checked(user, plain, number)
        assert (result.reference, result.mode, result.unsteady) == ("float64", "train", 0.0)
        assert result.claim is LADDER.numerics(number)


def test_a_wrong_norm_is_refused(user, plain):
    wrong = tuple((n, k, 100 * e, p) for n, k, e, p in plain.about.native)
    recipe = LADDER.compose(plain, stack(6, plain))
    recipe = replace(recipe, about=replace(plain.about, native=wrong))
    with pytest.raises(NotEquivalent, match="declared rounding"):
        checked(user, plain, 6, recipe)


def test_columns_that_are_not_cut_off_are_refused(user, plain, monkeypatch):
    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)

    monkeypatch.setattr(changing.PaddedLinear, "forward", forward)
    with pytest.raises(NotEquivalent, match="declared rounding, but in"):
        checked(user, plain, 8)


def test_parts_that_are_not_the_batch_are_refused(user, plain, monkeypatch):
    def twice_the_first(batch, count, size):
        return [changing.parts(batch, count, size)[0]] * count

    monkeypatch.setattr(building, "parts", twice_the_first)
    with pytest.raises(NotEquivalent, match="declared rounding"):
        checked(user, plain, 15)


def test_fewer_digits_are_no_mere_rounding(user, plain):
    recipe = LADDER.compose(plain, (4,))
    with pytest.raises(NotEquivalent, match="declared rounding"):
        check(user, recipe, plain, plain, Numerics.ROUNDING, CPU)


def test_what_a_model_does_not_repeat_is_found_and_put_away(tmp_path):
    """Dropout as a function is off in eval mode; noise that is never off lets nothing be judged."""
    drop = ("model(batch)", "nn.functional.dropout(model(batch), 0.5, model.training)")
    other = file_of(tmp_path, drop)
    recipe = OwnRecipe(about=look_at(other, "cpu", BATCH), batch_size=BATCH)
    result = check(
        other, replace(recipe, optimizer="fused"), recipe, recipe, Numerics.ROUNDING, CPU
    )
    assert (result.mode, result.unsteady) == ("eval", 0.0)
    noise = ("model(batch)", "(model(batch) * torch.randn(()))")
    result = check(file_of(tmp_path, noise), recipe, recipe, recipe, Numerics.ROUNDING, CPU)
    assert result.unsteady > 0.01
    assert result.limit > 1e6


def test_a_model_that_cannot_work_in_float64_is_held_to_float32(tmp_path):
    only = ("model(batch)", "model(batch.float())")
    other = file_of(tmp_path, only)
    recipe = OwnRecipe(about=look_at(other, "cpu", BATCH), batch_size=BATCH)
    assert check(other, recipe, recipe, recipe, Numerics.ROUNDING, CPU).reference == "float32"


def test_breaks_are_listed_by_line():
    torch._dynamo.reset()
    breaks = Breaks()

    def broken(x):
        x = x + 1
        print("here")
        return x * 2

    torch.compile(broken, backend="eager")(torch.ones(2))
    line = broken.__code__.co_firstlineno + 2
    assert [one for one in breaks.found if one.startswith(f"test_own.py:{line}: ")]


def test_blocks_are_compiled_by_themselves(user, plain, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compiled.append(type(self)))
    build(user, replace(plain, compile=BLOCKS), CPU)
    assert [kind.__name__ for kind in compiled] == ["Block", "Block"]


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "Adam"])
def test_an_optimizer_keeps_its_options_however_it_computes(kind, tmp_path):
    made_so = f"""
def optimizer(model):
    groups = [{{"params": [model.weight], "lr": 0.5}}, {{"params": [model.bias]}}]
    return torch.optim.{kind}(groups, lr=0.25, weight_decay=0.125)
"""
    other = file_of(tmp_path, text=PLAIN + made_so)
    about = look_at(other, "cpu", BATCH)
    recipe = OwnRecipe(about=about, batch_size=BATCH, optimizer="fused")
    optimizer = build(other, recipe, CPU).optimizer
    assert type(optimizer).__name__ == kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]
    assert all(g["weight_decay"] == 0.125 and g["fused"] for g in optimizer.param_groups)


def test_units_are_the_samples_unless_the_file_counts_them(user, tmp_path, plain):
    run_ = build(user, plain, CPU)
    assert user.units(fetch(run_)) == BATCH * 16
    other = file_of(tmp_path)
    assert other.units(other.batch(6, "cpu")) == 6


def test_parts_of_a_batch_are_equal_and_all_of_it():
    batch = {"x": torch.arange(12).view(4, 3), "scale": torch.ones(3), "name": "n"}
    first, second = changing.parts(batch, 2, samples(batch))
    assert torch.equal(torch.cat([first["x"], second["x"]]), batch["x"])
    assert second["name"] == "n"
    assert torch.equal(second["scale"], batch["scale"])


# -- mistakes in the file --


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("import torch\n", "import nothing_such\n", "it raised ModuleNotFoundError: No module"),
        ("def loss(", "def lose(", "lacks a function loss(model, batch)"),
        ("return nn.Linear(3, 1)", "return 3", "model() returned int; it must be an nn.Module"),
        ("nn.Linear(3, 1)", "nn.ReLU()", "has no parameter that is trained"),
        (".mean()", "", r"a tensor of shape (4, 1); it must be a scalar"),
        (".mean()", ".mean().item()", "returned float; it must be a scalar tensor"),
        (".mean()", ".mean().detach()", "the loss has no gradient"),
        (".mean()", ".mean().log().log()", "the loss is nan at the first step"),
        ("model(batch)", "model(batch[:, :2])", "loss(model, batch) raised RuntimeError"),
        ("torch.randn(batch_size", "torch.randn(nobody", "raised NameError: name 'nobody'"),
        ("def model(): return", "def model(): return (", "it raised SyntaxError"),
        ("import torch\n", "import sys; sys.exit(3)\n", "it raised SystemExit: 3 (line 2 of"),
        ("model(batch)", "batch.requires_grad_()", "no parameter has a gradient"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, capfd, old, new, said):
    with pytest.raises(UserError) as refused:
        look_at(file_of(tmp_path, (old, new)), "cpu", BATCH)
    assert said in str(refused.value)
    assert "my_model.py" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_the_line_of_an_error_is_named(tmp_path):
    with pytest.raises(UserError, match=r"\(line 6 of my_model.py\)"):
        look_at(file_of(tmp_path, ("square()", "no_such()")), "cpu", BATCH)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch_size, 3", "5, 3", "does not give 4 samples"),
        ("model(batch)", "model(torch.ones_like(batch))", "does not depend on its input"),
        (
            "return nn.Linear(3, 1)",
            "m = nn.Linear(3, 1); m.more = nn.Linear(1, 1); return m",
            "no gradient reaches more.weight, more.bias",
        ),
    ],
)
def test_what_is_odd_is_noted_and_the_climb_goes_on(tmp_path, old, new, said):
    about = look_at(file_of(tmp_path, (old, new)), "cpu", BATCH)
    assert any(said in note for note in about.notes)
    recipe = OwnRecipe(about=about, batch_size=BATCH)
    assert LADDER.rung(2).applies(HERE, recipe) is None
    refused = LADDER.rung(16).applies(HERE, recipe)
    assert ("number of samples" in (refused or "")) == ("samples" in said)


def test_the_command_line_names_what_is_wrong(refusal, tmp_path):
    assert "no such file" in refusal(command.main, ["--model", "nowhere.py"])
    assert "neither a file" in refusal(command.main, ["--model", "nowhere_at_all"])
    assert "needs --model FILE" in refusal(command.main, ["--ladder", "own"])
    both = ["--model", str(FILE), "--ladder", "memory"]
    assert "unrecognized arguments: --model" in refusal(command.main, both)


def test_a_crash_of_the_users_code_is_one_sentence_too(refusal, tmp_path):
    file_of(tmp_path)
    text = PLAIN.replace("return nn.Linear(3, 1)", "import os; print('{}'); os._exit(7)")
    (tmp_path / "my_model.py").write_text(text)
    said = refusal(command.main, ["--model", str(tmp_path / "my_model.py"), "--device", "cpu"])
    assert "its process ended with status 7: {}" in said


# -- which file is run --


def test_a_module_is_found_by_its_name_and_nothing_is_run(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "pack" / "net.py").write_text(PLAIN)
    assert found("pack.net") == ((tmp_path / "pack" / "net.py").resolve(), "pack.net")


def test_a_file_that_changed_is_not_run(tmp_path):
    path = tmp_path / "my_model.py"
    path.write_text(PLAIN)
    before = hash_of(path)
    path.write_text(PLAIN + "raise SystemExit")
    with pytest.raises(UserError, match="has changed since the run began"):
        UserFile(path, "", before)


def test_a_record_names_no_file_to_run(plain):
    """Its recipe holds plain values; the file is the one that the command names."""
    values = to_json(plain)
    assert from_json(json.loads(json.dumps(values))) == plain
    assert "file" not in values
    with pytest.raises((TypeError, ValueError)):
        from_json(values | {"native": "os.system"})


# -- what a run ends with --


# an optimizer of the file's own has no fused form: a rung less to try
OWN_OPTIMIZER = """
class Mine(torch.optim.AdamW):
    pass
def optimizer(model):
    return Mine(model.parameters())
"""


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """The rungs up to the native modules: the path, and how the command ended."""
    out = tmp_path_factory.mktemp("own")
    (out / "my_model.py").write_text(FILE.read_text() + OWN_OPTIMIZER)
    options = ("--model", str(out / "my_model.py"), "--device", "cpu", "--batch-size", "4")
    return out, run(
        *SHORT_RUN, *options, "--steps", "2", "--upto", "6", "--rounds", "2", "--out", str(out)
    )


def records_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def test_a_climb_ends_with_what_to_turn_on(climbed):
    out, done = climbed
    assert done.returncode == 0, done.stderr
    records = records_of(out)
    status = {record["rung"]: record["status"] for record in records}
    applies = {4} if HERE.native_bf16 else set()
    assert {number for number, one in status.items() if one == "ok"} == {0, 6} | applies
    assert records[0]["settings"]["file"] == "my_model.py"
    assert records[0]["settings"]["sha256"] == hash_of(out / "my_model.py")
    assert {one.number for one in advice(records, LADDER)} == {6} | applies
    page = (out / "recommendation.md").read_text()
    assert page == recommendation_markdown(records, LADDER)
    assert "What to turn on" in (out / "report.html").read_text()
    assert f"{records[0]['baseline']['about']['parameters']:,} parameters" in done.stdout


def test_what_a_run_leaves_names_no_folder_of_the_machine(climbed):
    """The file and --out were given by their whole paths, in a folder that is not the project's."""
    out, _ = climbed
    left = [path for path in out.iterdir() if path.suffix in (".jsonl", ".md", ".html", ".csv")]
    assert len(left) >= 5
    for path in left:
        text = path.read_text()
        assert not [f for f in (out, out.resolve(), PROJECT, Path.home()) if f"{f}/" in text], path
        assert str(out) not in text, path
    words = shlex.split(records_of(out)[0]["command"])
    assert {"my_model.py", out.name} <= {*words}


def test_a_run_goes_on_from_another_folder(climbed, monkeypatch):
    """By the file's name and hash; how its path was typed is another thing."""
    out, _ = climbed
    monkeypatch.chdir(out)
    ladder, options = parse(["--model", "my_model.py", "--device", "cpu", "--batch-size", "4",
                             "--steps", "2", "--upto", "6", "--rounds", "2"])  # fmt: skip
    plan, _ = make_plan(ladder, options)
    assert plan.settings.recorded() == records_of(out)[0]["settings"]  # what --resume compares
    assert plan.settings.file == str((out / "my_model.py").resolve())  # what is run


def of_own(plain: OwnRecipe, applied: tuple[int, ...], turn: int, rate: float, held=10**6, **more):
    """A record of the last of those rungs, made up."""
    rung, values = applied[-1] if applied else 0, to_json(plain)
    record = fake_record(rung, turn, rate * (1 + 1e-4 * turn), applied=list(applied))
    measured = {"units_per_step": 32, "units": "samples", "samples_per_step": 32}
    measured |= {"peak_tensor_bytes": held, "graph_breaks": []}
    return record | {
        "ladder": LADDER.name,
        "settings": {"device": "cpu", "steps": 3, "warmup": 2, "file": "/m.py", "sha256": "0" * 64},
        "baseline": values,
        "recipe": to_json(LADDER.compose(plain, applied)),
        "name": LADDER.title(rung),
        "numerics": LADDER.numerics(rung).value,
        "measurement": record["measurement"] | measured | more.pop("measured", {}),
        **more,
    }


def climb_of(plain: OwnRecipe) -> list[dict]:
    rungs = [
        ((), 100, 10**6),
        ((6,), 200, 10**6),
        ((6, 8), 120, 10**6),
        ((6, 8, 14), 120, 6 * 10**5),
    ]
    rungs.append(((6, 8, 15), 120, 10**6))
    return [of_own(plain, a, turn, rate, held) for turn in (1, 2, 3) for a, rate, held in rungs]


def test_lines_to_paste_name_the_device_of_the_run(plain):
    records = [of_own(plain, a, turn, r) for turn in (1, 2, 3) for a, r in (((), 1), ((4,), 2))]
    for device in ("cpu", "xpu"):
        on = [
            record | {"machine": record["machine"] | {"device_type": device}} for record in records
        ]
        assert f'| with torch.autocast("{device}", dtype' in "\n".join(
            recommendation_text(on, LADDER)
        )


def test_settings_to_export_are_those_that_the_device_reads(plain):
    both = step09_page_faults.apply(plain)
    allocator = ["export PYTORCH_ALLOC_CONF=expandable_segments:True"]
    assert step09_page_faults.lines("cuda", both) == allocator
    of_glibc = step09_page_faults.lines("cpu", both)
    assert len(of_glibc) == 3 and all(line.startswith("export MALLOC_") for line in of_glibc)


def test_the_recommendation_sorts_by_what_was_told(plain):
    """A gain, a saving, neither, and a loss."""
    records = climb_of(plain)
    found = advice(records, LADDER)
    assert {one.number: one.kind for one in found} == {6: "on", 14: "saving", 15: "open", 8: "off"}
    assert [one.number for one in found] == [6, 14, 15, 8]
    assert (found[1].base, found[1].saved) == (8, ("tensors of a step, MiB -40%",))
    text = "\n".join(recommendation_text(records, LADDER))
    assert "14 Checkpointing of blocks (on 8); tensors of a step, MiB -40%" in text
    assert "| nn.LayerNorm(width, eps=1e-06)  # for blocks.0.norm and 1 more" in text
    assert "to the numbers: rounded in another order" in text


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_page_has_the_recommendation_and_escapes_it(plain, lang):
    names = tuple((f"<b>{name}", *rest) for name, *rest in plain.about.native)
    page = to_page(
        [climb_of(replace(plain, about=replace(plain.about, native=names)))], LADDER, lang
    )
    assert {"en": "Turn on only for what it saves", "ja": "有効にする変更"}[lang] in page
    assert "nn.LayerNorm(width, eps=1e-06)  # for &lt;b&gt;blocks.0.norm and 1 more" in page


def test_a_wait_for_batches_and_graph_breaks_are_told(plain):
    slow = {"data_wait_s": 0.5, "window_s": 1.0, "graph_breaks": ["m.py:7: Call to print"]}
    warnings = LADDER.workload.warnings(of_own(plain, (10,), 1, 1.0, measured=slow))
    assert warnings[0] == "graph break at m.py:7: Call to print"
    assert warnings[1].startswith("batch() takes 50% of a step")


def test_compiling_took_what_the_process_took_that_did_it(plain):
    """A candidate's try, or the first round; where a cache had it all, that is said."""
    workload, cold, warm = LADDER.workload, {"from_cache": False}, {"from_cache": True}
    tried = {"first_step_s": 42.0} | cold
    (shown,) = (metric for metric in workload.metrics if metric.name == "first_step_s")
    first = of_own(plain, (10,), 1, 100, measured=cold)
    again = [of_own(plain, (10,), turn, 100, measured=warm) for turn in (1, 2)]
    assert shown.of(first) == 1.0
    assert [shown.of(record) for record in again] == [None, None]
    assert [shown.of(record | {"first_try": tried}) for record in again] == [42.0, 42.0]
    assert [shown.of(record | {"first_try": tried | warm}) for record in again] == [None, None]
    assert workload.extra_text([first, again[1]], False) == ""
    assert workload.extra_text([again[0] | {"first_try": tried}], False) == ""
    said = "What compiling takes is not known of rung 10: a cache had it"
    assert said in " ".join(workload.extra_text(again, False).split())
    assert said in workload.notes(again)
    assert "known of" not in workload.notes([first, again[1]])


def test_what_the_compilers_cache_had_was_not_compiled_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    found = []
    for _ in range(2):
        forget_graphs()
        torch.compile(lambda x: x.sin() + 1)(torch.ones(4))
        found.append(from_cache())
    forget_graphs()
    assert found == [False, True]


def test_a_graph_compiled_twice_in_one_process_was_compiled_here(tmp_path, monkeypatch):
    """A guard that fails at step 2, and then the same graph: found in the cache, but its own."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    text = """
import torch
from torch import nn
class Net(nn.Linear):
    calls = 0
    def forward(self, x):
        return super().forward(x if self.calls else x)
def model(): return Net(3, 1)
def batch(batch_size, device): return torch.randn(batch_size, 3, device=device)
def loss(model, batch):
    found = model(batch).square().mean()
    model.calls = 1
    return found
"""
    file = file_of(tmp_path, text=text)
    about = look_at(file, "cpu", BATCH)
    recipe = OwnRecipe(about=about, batch_size=BATCH, compile="whole")
    found = []
    for _ in range(2):
        forget_graphs()
        session = OwnSession(file, recipe, Settings(device="cpu", file=str(file.path)), CPU)
        for _ in range(3):
            session.step()
        found.append((compiled_graphs()[0], session.from_cache))
    forget_graphs()
    assert found == [(2, False), (2, True)]


def test_gains_alone_and_left_out_are_those_of_the_stair(plain):
    """A branch as long as the stair is not what a rung is left out of."""
    records = climb_of(plain)
    for turn in (1, 2, 3):
        records.append(of_own(plain, (6,), turn, 150, series="without") | {"rung": 8})
        records.append(of_own(plain, (8,), turn, 75, series="without") | {"rung": 6})
    rows = {row["rung"]: row for row in to_attribution(records, LADDER.workload).to_dict("records")}
    assert rows[6]["left_out"] == pytest.approx(120 / 75, rel=0.01)
    assert rows[8]["left_out"] == pytest.approx(120 / 150, rel=0.01)


def test_without_is_for_the_stair_only(refusal):
    options = ["--model", str(FILE), "--device", "cpu", "--without", "14"]
    assert "--without 14: no other rung stands on it" in refusal(command.main, options)
