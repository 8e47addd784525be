"""Shared by the tests: how to run the project's commands, and one measured tiny ladder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.recipe import Shape

PROJECT = Path(__file__).resolve().parent.parent
SMALL = Shape(layers=2, heads=2, emb_dim=32, context=16, vocab_size=509)  # 509 is prime: it pads


def run(*command: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess:
    """Run a python command line in the project's folder."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test reads or fills the user's cache."""
    os.environ["LADDER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_ladder(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The whole ladder at the tiny preset, measured once, compiled for real."""
    out = tmp_path_factory.mktemp("ladder")
    done = run("-m", "steps.run", "--preset", "tiny", "--device", "cpu", "--out", str(out))
    return out, done


def last_json(done: subprocess.CompletedProcess) -> dict:
    return json.loads(done.stdout.splitlines()[-1])
