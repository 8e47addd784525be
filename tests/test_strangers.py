"""What is around the project when strangers use it: their environment, limits, and leftovers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.accelerator.compiler import compile_cache, is_whole, own_compile_cache
from common.cli import run as command
from common.engine import device
from common.engine.device import allowed_cpus, container_quota, threads_allowed
from common.engine.process import Outcome
from common.workloads.train.recipe import Recipe
from common.workloads.train.workload import TRAINING
from tests.conftest import PROJECT, SHORT_RUN, run, short_climb

SHAPE = ("--layers", "1", "--heads", "1", "--emb-dim", "4", "--context", "8", "--batch-size", "2")
ONCE = ("--preset", "tiny", "--device", "cpu", *SHAPE, "--rounds", "1")


def test_a_hostile_environment_costs_nothing(tmp_path):
    """A sitecustomize that prints, a plotting backend that is not there, an ASCII terminal."""
    (tmp_path / "sitecustomize.py").write_text("print('hello from your shell')\n")
    out = tmp_path / "out"
    done = run(
        *(*SHORT_RUN, *ONCE, "--only", "0,2", "--out", str(out)),
        PYTHONPATH=str(tmp_path),
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "ladder.png").stat().st_size > 5000
    assert "does not apply" in done.stdout


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user")
def test_a_user_without_a_home_or_an_account(tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    for folder in (tmp_path, out, cache):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    code = (
        "import os, sys; os.setuid(54321); del os.environ['HOME']\n"
        "from tests.unwatched import unwatch; unwatch(ceilings=False)\n"
        "from steps.run import main; sys.exit(main(sys.argv[1:]))\n"
    )
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o005 != 0o005:
            pytest.skip(f"{path} is closed to other users")
    options = (*ONCE, "--only", "0", "--out", str(out))
    done = run("-c", code, *options, LADDER_CACHE=str(cache))
    assert done.returncode == 0, done.stdout + done.stderr


def test_docstrings_that_were_taken_away_are_a_sentence():
    done = run("-OO", "-m", "steps.run", "--list")
    assert done.returncode == 2
    assert done.stderr.startswith("error: PYTHONOPTIMIZE=2")
    assert run("-O", "-m", "steps.run", "--list").returncode == 0


def test_a_picture_that_fails_costs_only_itself(tmp_path, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("no such font")

    monkeypatch.setattr("common.report.plot.plot_ladder", broken)
    with short_climb():
        assert command.main([*ONCE, "--only", "0", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'ladder.png'} is not written (RuntimeError: no such font)" in said
    assert said.index("baseline") < said.index("is not written")
    for name in ("records.jsonl", "ladder.csv", "ladder.md", "losses.png"):
        assert (tmp_path / name).stat().st_size > 100


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu.max": "what is this"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_is_read(tmp_path, files, quota):
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert container_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("wanted", "quota", "processes", "threads"),
    [("", None, 1, 2), ("1", None, 1, 1), ("8", None, 1, 2), ("2,1", None, 2, 1), ("", 0.5, 1, 1)],
)
def test_the_users_limits_are_kept(monkeypatch, wanted, quota, processes, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(device, "container_quota", lambda: quota)
    assert threads_allowed(processes) == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_an_affinity_is_a_limit():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert allowed_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("g++"), reason="g++ makes an ELF")
def test_a_damaged_compile_cache_is_emptied(tmp_path, monkeypatch):
    """Libraries cut short, as a kill inside a compilation leaves them, are not used."""
    library, code = tmp_path / "made.so", tmp_path / "made.cpp"
    code.write_text("int answer() { return 42; }\n")
    subprocess.run(["g++", "-shared", "-fPIC", "-o", str(library), str(code)], check=True)
    assert is_whole(library)
    whole = library.read_bytes()
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    kept = own_compile_cache() / "ab" / "kernel.so"
    for damaged in (b"", whole[:-1], whole[:70]):
        kept.parent.mkdir(parents=True)
        kept.write_bytes(damaged)
        assert compile_cache() == {"TORCHINDUCTOR_CACHE_DIR": str(own_compile_cache())}
        assert not kept.exists()
    kept.parent.mkdir(parents=True)
    kept.write_bytes(whole)
    compile_cache()
    assert kept.exists()


@pytest.mark.parametrize(
    ("reason", "again"),
    [
        ("BackendCompilerFailed: backend='inductor' raised", True),
        ("OSError: file too short", True),
        ("killed by SIGBUS", True),
        ("killed by SIGKILL (by hand, or by the system for want of memory)", False),
        ("not in effect: no graph was compiled", False),
        ("not equivalent: declared exact", False),
    ],
)
def test_a_compiled_rung_that_breaks_has_a_second_try(tmp_path, monkeypatch, reason, again):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    own_compile_cache().mkdir()
    outcome = Outcome(status="failed", reason=reason, wall_s=1.0)
    assert bool(TRAINING.again(Recipe(compile=True), outcome)) == again
    assert own_compile_cache().exists() != again
    assert not TRAINING.again(Recipe(), outcome)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert not TRAINING.again(Recipe(compile=True), outcome)  # the user's own is not touched


def test_children_find_the_project_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROJECT / "00_orig.py"), *ONCE[:-2], "--max-steps", "1"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path / "results" / "loss.png").exists()
