"""What will the ladder do on this machine? python -m steps.doctor

One screen: the device, which rungs apply and why others do not, attention backends, compiler,
memory, cache, and about how long the ladder will take. Measures one step; downloads nothing.
"""

import math
import os
import shlex
import shutil
import textwrap

import psutil
import torch

from common.accelerator.compiler import missing_compiler
from common.accelerator.device import describe_in_child, pick_type
from common.cli.planning import SECONDS_EACH
from common.engine.device import GIB, DeviceFacts
from common.engine.job import Job
from common.engine.options import Parser
from common.engine.process import run_job
from common.engine.records import is_file
from common.gpt.text import cache_dir, read_text, read_tokens, split
from common.workloads.train.options import Chosen, add_workload_options, chosen, typed
from common.workloads.train.settings import Settings
from common.workloads.train.workload import TRAINING
from steps import LADDER

ROUNDS = 3  # on accelerators
PER_CHILD_S = 5.0  # start-up and equivalence check of one child, as seen on a 2-core machine
PER_COMPILE_S = 30.0  # a cold compilation, likewise


def refusals(device: DeviceFacts, work: Chosen) -> dict[int, str]:
    """The rungs that do not apply here, each on top of those below it, and why."""
    recipe, found = work.recipe, {}
    for number in range(1, LADDER.top + 1):
        rung = LADDER.rung(number)
        if reason := rung.applies(device, recipe):
            found[number] = reason
        else:
            recipe = rung.apply(recipe)
    return found


def attention_backends(device: DeviceFacts) -> str:
    """The fused kernels that training may get here, each under conditions of its own."""
    if device.type == "cuda":
        backends = torch.backends.cuda
        from_80 = device.capability is None or device.capability >= (8, 0)  # torch: sdp_utils.cpp
        names = {
            "flash": backends.flash_sdp_enabled() and from_80,
            "cudnn": backends.cudnn_sdp_enabled() and from_80 and device.vendor == "nvidia",
            "efficient": backends.mem_efficient_sdp_enabled(),
        }
        return ", ".join(name for name, on in names.items() if on) or "unfused only"
    others = {"cpu": "flash (without dropout)", "xpu": "flash (16 bits, without dropout)"}
    return others.get(device.type, "unfused in training")  # mps: see step 7


def seconds_per_step(device: DeviceFacts, work: Chosen) -> float | None:
    """One baseline step, measured in a child; None if it does not run."""
    settings = Settings(shape=work.shape, device=device.type, steps=1, warmup=2)
    job = Job(workload=TRAINING, recipe=work.recipe, settings=settings)
    outcome = run_job(job, timeout=300.0)
    return outcome.measurement["step_s"][0] if outcome.status == "ok" else None


def estimate(step_s: float, device: DeviceFacts, work: Chosen, measured: int) -> float:
    """Seconds for the default ladder: its budget, or if no rung were faster than the baseline."""
    if device.type == "cpu":
        return SECONDS_EACH * (LADDER.top + 1)
    steps = work.defaults.steps + work.defaults.warmup
    compiling = 0 if missing_compiler(device) else 4 * PER_COMPILE_S
    children = ROUNDS * (measured + 1)
    return children * (PER_CHILD_S + steps * step_s) + compiling


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m steps.doctor", description=__doc__.splitlines()[0])
    add_workload_options(parser)
    options = parser.parse_args(arguments)
    device = describe_in_child(pick_type(options.device))
    work = chosen(options, device)
    split(read_tokens(text := read_text(options.text)), work.shape)  # or say what is wrong with it
    refused = refusals(device, work)
    shape, free = work.shape, psutil.virtual_memory().available / GIB
    threads = torch.get_num_threads()
    size = sum(file.stat().st_size for file in cache_dir().glob("*") if is_file(file)) / 2**20
    facts = {
        "device": f"{device.name} ({device.type}, {device.count}), {device.memory_gib:.1f} GiB",
        "torch": f"{torch.__version__}, {threads} threads, {free:.1f} GiB of RAM free",
        "workload": f"{work.preset}: {shape.layers} layers, {shape.heads} heads, width "
        f"{shape.emb_dim}, context {shape.context}, batch {work.recipe.batch_size}",
        "compiler": missing_compiler(device) or compiler_name(device),
        "attention": attention_backends(device),
        "text": text.source,
        "cache": f"{cache_dir()}, {size:.1f} MiB",
    }
    for name, fact in facts.items():
        print(textwrap.fill(f"{name:<12}{fact}", 80, subsequent_indent=" " * 12))
    print()
    for number in range(LADDER.top + 1):
        verdict = f"no: {refused[number]}" if number in refused else "yes"
        line = f"{number:>2}  {LADDER.title(number):<25} {verdict}"
        print(textwrap.fill(line, 80, subsequent_indent=" " * 30))
    step_s = seconds_per_step(device, work)
    if step_s is None:
        print(f"\nthe baseline does not run at batch {work.recipe.batch_size}; next:")
        options.batch_size = 1
        print(f"  {next_command(options).replace('steps.run', 'steps.doctor')}")
        return 1
    seconds = estimate(step_s, device, work, LADDER.top + 1 - len(refused))
    print(f"\na baseline step takes {step_s:.2f} s")
    print(f"next, for at most {math.ceil(seconds / 60)} min:\n  {next_command(options)}")
    return 0


def next_command(options) -> str:
    """What climbs the ladder at the workload that was asked about."""
    return shlex.join(["python", "-m", "steps.run", *typed(options)])


def compiler_name(device: DeviceFacts) -> str:
    if device.type == "cpu":
        return shutil.which(os.environ.get("CXX", "g++"))
    import triton

    return f"Triton {triton.__version__}"
