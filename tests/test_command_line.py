"""A user's mistake is one plain sentence, status 2, no traceback, and nothing is overwritten."""

import importlib
import os
import re
import subprocess
import sys

import pytest

from common.cli import check, compare, doctor
from common.cli import run as command
from common.engine.device import DeviceFacts
from common.engine.errors import quiet_when_unread
from common.scripts import script
from common.workloads.train.presets import auto
from ladders import LADDERS, load
from steps import LADDER
from tests.conftest import PROJECT, run, width

TINY = ("--preset", "tiny", "--device", "cpu")
TOP = LADDER.top


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--upto", f"{TOP + 1}"), f"--upto {TOP + 1}: must be a rung from 0 to {TOP}"),
        (("--upto", "seven"), f"--upto seven: must be a rung from 0 to {TOP}"),
        (("--upto", "-1"), "--upto"),
        (("--only", "3,x"), f"--only x: must be a rung from 0 to {TOP}"),
        (("--only", "3", "--upto", "4"), "--upto and --only"),
        (("--heads", "3", *TINY), "--heads 3: does not divide --emb-dim 32; allowed: 1, 2, 4"),
        (("--context", "900000", *TINY), "--context 900000: longer than the text"),
        (("--text", "/no/such.txt", *TINY), "--text /no/such.txt: no such file"),
        (("--text", "EMPTY", *TINY), "the file is empty"),
        (("--text", "BINARY", *TINY), "not UTF-8 text"),
        (("--text", "NUL", *TINY), "a binary file"),
        (("--device", "tpu"), "--device tpu: unknown; allowed: auto, cuda, mps, xpu, cpu"),
        (("--device", "xpu"), "--device xpu: torch"),
        (("--out", "/proc/results", *TINY), "--out /proc/results: cannot be written"),
        (("--steps", "0"), "--steps: 0: must be a whole number from 1 on"),
        (("--warmup", "1"), "--warmup: 1: must be a whole number from 2 on"),
        (("--rounds", "0"), "--rounds: 0: must be a whole number from 1 on"),
        (("--without", "0", *TINY), f"--without 0: must be a rung from 1 to {TOP}"),
        (("--without", "3", "--upto", "5", *TINY), "--without: needs the full stack"),
        (("--attribute", "--only", "1", *TINY), "--attribute: needs the whole ladder"),
        (("--steps", "many"), "--steps: many: must be a whole number"),
        (("--dropout", "1"), "--dropout: 1: must be a number from 0 to below 1"),
        (("--timeout", "0"), "--timeout: 0: must be a number of seconds above 0"),
        (("--timeout", "1e300"), "--timeout: 1e300: must be at most 31,536,000 seconds"),
        (("--timeout", "nan"), "--timeout: nan: must be a number of seconds above 0"),
        (("--timeout", "١"), "--timeout: ١: must be a number of seconds above 0"),
        (("--dropout", "nan"), "--dropout: nan: must be a number from 0 to below 1"),
        (("--dropout", "-0.1"), "--dropout: -0.1: must be a number"),
        (("--steps", "٣"), "--steps: ٣: must be a whole number from 1 on"),
        (("--steps", "+-3"), "--steps: +-3: must be a whole number from 1 on"),
        (("--steps", "1e3"), "--steps: 1e3: must be a whole number"),
        (("--steps", ""), "--steps: : must be a whole number"),
        (("--steps", "9" * 5000), "must be a whole number"),
        (("--rounds", "1001"), "--rounds: 1001: must be at most 1,000"),
        (("--layers", "10001"), "--layers: 10001: must be at most 10,000"),
        (("--emb-dim", "9" * 20), "must be at most 1,000,000"),
        (("--batch-size", "1000001"), "must be at most 1,000,000"),
        (("--ladder", "parallel", "--nproc", "1000", *TINY), "--nproc 1000: at most"),
        (("--upto", "9" * 5000), f"must be a rung from 0 to {TOP}"),
        (("--only", "٣"), f"--only ٣: must be a rung from 0 to {TOP}"),
        (("--only", ""), f"--only : must be a rung from 0 to {TOP}"),
        (("--out", ""), "--out: the name of a folder is needed"),
        (("--out", "EMPTY", *TINY), "cannot be written (File exists)"),
        (("--out", "x" * 300, *TINY), "cannot be written (File name too long)"),
        (("--text", "", *TINY), "--text .: not a file"),
        (("--text", "/dev/null", *TINY), "--text /dev/null: not a file"),
        (("--text", "FOLDER", *TINY), "not a file"),
        (("--text", "PIPE", *TINY), "not a file"),
        (("--text", "x" * 300, *TINY), "no such file"),
        (("--text", "a\0b", *TINY), "no such file"),
        (("--device", ""), "--device : unknown"),
        (("--ladder", ""), "--ladder"),
        (("--preset", "huge"), "--preset"),
        (("--colour",), "unrecognized arguments: --colour"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, refusal, options, message):
    monkeypatch.setattr(command, "climb", lambda *plan: pytest.fail("it was not refused"))
    files = {"EMPTY": b" \n", "BINARY": bytes(range(256)), "NUL": b"a\0b"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "FOLDER").mkdir()
    os.mkfifo(tmp_path / "PIPE")
    here = {*files, "FOLDER", "PIPE"}
    options = [str(tmp_path / word) if word in here else word for word in options]
    if "--out" not in options:
        options += ["--out", str(tmp_path / "out")]
    assert message in refusal(command.main, options)
    assert not (tmp_path / "out" / "records.jsonl").exists()


@pytest.mark.parametrize("options", [("--steps", "0"), ("--heads", "3", *TINY)])
def test_the_process_ends_with_the_sentence_and_status_2(tmp_path, options):
    """One mistake that the parser finds and one that is found later, as a shell sees them."""
    done = run("-m", "steps.run", *options, "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {options[0]}")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--context", "900000"), "--context 900000: longer than the text"),
        (("--text", "/dev/null"), "--text /dev/null: not a file"),
        (("--heads", "٢"), "--heads: ٢: must be a whole number"),
    ],
)
def test_doctor_refuses_as_plainly(refusal, options, message):
    assert message in refusal(doctor.main, [*TINY, *options])


@pytest.mark.parametrize("main", [check.main, compare.main])
@pytest.mark.parametrize("path", ["", "/dev/null", "x" * 300, "/proc", "a\0b"])
def test_what_holds_no_records_is_a_sentence(refusal, main, path):
    options = ["--against", path] if main is check.main else [path, path]
    assert "no records there" in refusal(main, options)


def test_packages_that_are_missing_are_named():
    hidden = (
        "import importlib.util as u, runpy, sys\n"
        "find = u.find_spec\n"
        "hidden = {'rich', 'psutil'}\n"
        "u.find_spec = lambda name, *more: None if name in hidden else find(name, *more)\n"
        "runpy.run_module('steps.campaign', run_name='__main__')\n"
    )
    done = run("-c", hidden)
    assert done.returncode == 2
    assert done.stderr.startswith("error: not installed: rich, psutil; pip install -r requirements")
    assert len(done.stderr.splitlines()) == 1


def test_a_torch_that_is_too_old_is_named(tmp_path):
    package = tmp_path / "torch-2.1.2.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.1.2+cpu\n")
    done = run("-c", "import common", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: torch 2.1.2+cpu is too old; 2.11 or newer is needed")


SCRIPTS = ("00_orig", "01_opt_single_gpu")


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "0"), "--epochs: 0: must be a whole number from 1 on"),
        (("--batch-size", "999999", *TINY), "more windows than the text has"),
    ],
)
def test_the_scripts_refuse_as_plainly(name, options, message, tmp_path, monkeypatch, refusal):
    module = importlib.import_module(name)
    line = [f"{name}.py", *options, "--plot", str(tmp_path / "loss.png")]
    monkeypatch.setattr("sys.argv", line)
    assert message in refusal(script.main, module.RECIPE, module.__doc__)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_scripts_process_ends_with_status_2(name, tmp_path):
    options = ("--load", "/no/such.pt", *TINY, "--batch-size", "2")
    done = run(f"{name}.py", *options, "--plot", str(tmp_path / "loss.png"))
    assert done.returncode == 2
    assert "--load /no/such.pt" in done.stderr
    assert "Traceback" not in done.stderr


def test_ddp_without_torchrun_says_what_to_type():
    done = run("02_opt_multi_gpu_ddp.py", *TINY)
    assert done.returncode == 2
    assert "torchrun --nproc_per_node=4 02_opt_multi_gpu_ddp.py" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", LADDERS)
def test_list_names_every_rung(capsys, name):
    ladder = load(name)
    assert command.main(["--ladder", name, "--list"]) == 0
    said = capsys.readouterr().out
    for number in range(ladder.top + 1):
        assert f"{number:>2}  {ladder.title(number)}" in said
    assert max(map(len, said.splitlines())) <= 80


def test_the_command_line_is_the_documented_one(capsys):
    with pytest.raises(SystemExit):
        command.parse(["--help"])
    options = {*re.findall(r"(?m)^  (?:-h, )?(--[a-z-]+)", capsys.readouterr().out), "-h"}
    assert options == {
        *("-h", "--help", "--list", "--upto", "--only", "--preset", "--layers", "--heads"),
        *("--emb-dim", "--context", "--batch-size", "--dropout", "--device", "--text"),
        *("--steps", "--warmup", "--timeout", "--out", "--rounds", "--attribute", "--without"),
        *("--resume", "--ladder", "--nproc", "--profile", "--trace", "--validate"),
        *("--resolution", "--budget", "--json"),
    }


@pytest.mark.parametrize(("memory", "batch"), [(80, 8), (24, 4), (16, 4), (12, 2), (6, 1)])
def test_auto_takes_the_batch_that_fits(memory, batch):
    card = DeviceFacts(
        type="cuda",
        name="Card",
        vendor="nvidia",
        memory_gib=memory,
        native_bf16=True,
        capability=(8, 0),
    )
    preset, recipe, note = auto(card)
    assert (preset, recipe.batch_size, recipe.dropout) == ("gpt2", batch, 0.1)
    assert (f"batch {batch}" in note) == (batch < 8)


def test_a_t4_gets_reasons_and_not_a_crash():
    t4 = DeviceFacts(
        type="cuda",
        name="Tesla T4",
        vendor="nvidia",
        memory_gib=15,
        native_bf16=False,
        capability=(7, 5),
    )
    _, recipe, _ = auto(t4)
    reasons = {}
    for number in range(1, LADDER.top + 1):
        reason = LADDER.rung(number).applies(t4, recipe)
        if reason:
            reasons[number] = reason
        else:
            recipe = LADDER.rung(number).apply(recipe)
    assert "8.0" in reasons[2]
    assert "emulate" in reasons[5]
    assert "16-bit" in reasons[7]


def test_nothing_here_needs_the_network(tmp_path):
    """Text, vocabulary, and tokens are had without one connection or name look-up."""
    code = (
        "import sys, common.gpt.text as data\n"
        "def watch(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        "        raise SystemExit(f'{event} {arguments}')\n"
        "sys.addaudithook(watch)\n"
        "data.read_tokens(data.read_text())\n"
    )
    done = run("-c", code, LADDER_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_doctor_is_one_screen(tmp_path):
    done = run("-m", "steps.doctor", *TINY, CXX="/no/such/compiler")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert width(done.stdout) <= 80
    assert len(lines) <= 40
    for number in range(LADDER.top + 1):
        assert any(line.startswith(f"{number:>2}  {LADDER.title(number)}") for line in lines)
    assert "no: TF32 is tried on NVIDIA's GPUs only" in done.stdout
    assert "no C++ compiler: /no/such/compiler not found" in done.stdout
    assert lines[-2].startswith("next, for at most ")
    assert lines[-1] == "  python -m steps.run --preset tiny --device cpu"


SAYS = """
from common.cli.display import Screen
from common.engine.errors import exit_on_user_error
with exit_on_user_error():
    Screen().print("a line of a climb")
"""


@pytest.mark.parametrize("command", [("-m", "steps.run", "--list"), ("-c", SAYS), ("-uc", SAYS)])
def test_a_reader_that_is_gone_ends_a_command_quietly(command):
    """As `| head -1` is, once it has its line."""
    with subprocess.Popen(
        [sys.executable, *command], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ended:
        ended.stdout.close()
        assert ended.stderr.read() == b""
        assert ended.wait(timeout=60) == 141


def test_another_pipe_that_broke_is_an_error_like_any_other():
    with pytest.raises(BrokenPipeError, match="of a child"), quiet_when_unread():
        raise BrokenPipeError("of a child")
