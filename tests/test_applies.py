"""Which rung applies on which kind of device, and why not.

`applies` gets the recipe below, so that a refusal carries upwards: each column is climbed once.
"""

import importlib.util
import shutil
import sys
import sysconfig
from dataclasses import replace

import pytest
import torch

from common.cli import doctor
from common.engine.device import DeviceFacts
from common.engine.ladder import Ladder
from common.workloads.batches.recipe import FedRecipe
from common.workloads.command.recipe import CommandRecipe
from common.workloads.compress.recipe import CompressRecipe
from common.workloads.convergence.recipe import ConvergenceRecipe
from common.workloads.finetune.recipe import FinetuneRecipe
from common.workloads.generate.recipe import GenerateRecipe
from common.workloads.own.recipe import About, OwnRecipe
from common.workloads.parallel.recipe import ParallelRecipe
from common.workloads.train.presets import auto
from common.workloads.train.recipe import Recipe
from ladders import parallel
from ladders.beyond import LADDER as BEYOND
from ladders.beyond import step15_float8
from ladders.compress import LADDER as COMPRESS
from ladders.convergence import LADDER as CONVERGENCE
from ladders.data import LADDER as DATA
from ladders.environment import LADDER as ENVIRONMENT
from ladders.environment import step02_threads, step03_bound_threads
from ladders.finetune import LADDER as FINETUNE
from ladders.inference import LADDER as INFERENCE
from ladders.inference import step05_packed_weights
from ladders.memory import LADDER as MEMORY
from ladders.own import LADDER as OWN
from steps import LADDER as STEPS
from steps import step07_flash_attention


def nvidia(name: str, *capability: int) -> DeviceFacts:
    return DeviceFacts(
        type="cuda",
        name=name,
        vendor="nvidia",
        memory_gib=80.0,
        native_bf16=capability >= (8, 0),
        capability=capability,
    )


def other(kind: str, vendor: str, name: str, native_bf16: bool = True) -> DeviceFacts:
    return DeviceFacts(
        type=kind, name=name, vendor=vendor, memory_gib=80.0, native_bf16=native_bf16
    )


DEVICES = {
    "P100": nvidia("Tesla P100-PCIE-16GB", 6, 0),
    "V100": nvidia("Tesla V100-SXM2-16GB", 7, 0),
    "T4": nvidia("Tesla T4", 7, 5),
    "A100": nvidia("NVIDIA A100-SXM4-80GB", 8, 0),
    "4090": nvidia("NVIDIA GeForce RTX 4090", 8, 9),
    "H100": nvidia("NVIDIA H100 80GB HBM3", 9, 0),
    "MI300": other("cuda", "amd", "AMD Instinct MI300X"),
    "RX57": other("cuda", "amd", "AMD Radeon RX 5700 XT", native_bf16=False),
    "xpu": other("xpu", "intel", "Intel(R) Data Center GPU Max 1100"),
    "mps": other("mps", "apple", "Apple M3 GPU"),
    "cpu": other("cpu", "cpu", "AMD EPYC 9R14"),
    "old": other("cpu", "cpu", "Intel(R) Xeon(R) Gold 6130", native_bf16=False),
}

# A dot is yes; a letter says why not: words of the reason, and what it rests on. Steps are those of
# the first ladder, rungs those of beyond.
WHY_NOT = {
    "a": ("capability 8.0", "NVIDIA, A100 whitepaper: TF32 and bfloat16 come with Ampere"),
    "b": ("TF32 is tried on NVIDIA", "not tried on others: MI300X and Intel's GPUs have it"),
    "c": ("no bfloat16", "A100 whitepaper; AMD, RDNA3 ISA: WMMA; torch.cpu.get_capabilities"),
    "d": ("discrete GPU", "torch, pin_memory tutorial; at::xpu has a pinned allocator, mps none"),
    "e": ("capability 7.0", "torch, _dynamo/device_interface.py: is_triton_capable"),
    "f": ("prototype", "pytorch/pytorch#150121, of torch.compile on Apple GPUs"),
    "g": ("8.0 and 16-bit", "torch, sdp_utils.cpp: flash from sm80 on; efficient from sm50 on"),
    "h": ("16-bit inputs", "torch, sdp_utils.cpp: check_dtypes_low_precision, also on ROCm"),
    "i": ("run with dropout", "intel/torch-xpu-ops#2232: neither oneDNN's nor SYCL-TLA's kernel"),
    "j": ("no backward pass", "pytorch/pytorch#179294, of attention on Apple GPUs"),
    "k": ("no such setting", "torch, CUDA semantics; mallopt(3): CUDA's allocator, and glibc's"),
    "l": ("(step 7)", "rung 4 adds to step 7"),
    "m": ("of a CPU", "rung 10 is written for its vector units"),
    "n": ("for CPUs that", "rung 5: of the two CPUs measured the Xeon did (LOG.md)"),
    "o": ("float32 already", "rung 5 adds to step 5"),
    "p": ("(step 5)", "rungs 10 and 15 add to step 5"),
    "q": ("0 already", "the preset for CPUs has no dropout"),
    "r": ("(rung 4)", "rung 12 adds to rung 4"),
    "s": ("to choose from", "torch, sdp_utils.cpp: CUDA has three, ROCm two (no cuDNN)"),
    "t": ("holds the tokens", "rung 13"),
    "u": ("step 8", "rung 14 adds to step 8"),
    "v": ("CUDA devices only", "CUDA graphs; on a CPU no mode was faster: LOG.md"),
    "w": ("FP8 tensor cores", "torch, _scaled_mm: 8.9, 9.0 and up; on MI300 in another format"),
    "x": ("as busy", "step 10 found no gain on CPUs: LOG.md"),
    "y": ("one device", "the presets are for one"),
    "z": ("float16 products", "torch.amp.GradScaler; slower than float32's on CPUs: LOG.md"),
    "A": ("is the host's", "memory's rung 12; Apple, Metal: GPUs share the memory of the system"),
    "B": ("device of its own", "data's rung 12; the same, and a CPU is its own host"),
    "C": ("--starved", "data's rung 7: the presets' samples are tokens only"),
    "D": ("(rung 3)", "inference's rungs 5 to 7 are for bfloat16 activations"),
    "E": ("CPUs and CUDA", "torch, native_functions.yaml: MPS and XPU have kernels, not tried"),
    "F": ("packing is for CPUs", "inference's rung 5: oneDNN's layouts are for CPUs"),
    "G": ("products of integers", "compress's rung 6: torch._int_mm, not tried on others"),
    "J": ("for NVIDIA's GPUs", "environment's rung 5: what ROCm makes of it was not tried"),
    "I": ("rung 10 compiles", "own's rung 11 adds to its rung 10"),
    "K": ("lie as usual", "own's rung 13: AdamW8 views weights, which rung 5 lays otherwise"),
    "L": ("on CPUs only", "beyond's rungs 6, 8, and 9 were measured on CPUs"),
    "M": ("faster fused kernels", "torch, sdpa_kernel: what rung 12 chooses from"),
    "H": ("sparse products", "torch, semi-structured sparsity tutorial: NVIDIA's from 8.0 on"),
}

# Fused AdamW runs on all these types (torch/utils/_foreach_utils.py). What the facts do not hold is
# left to the probes: ROCm's attention runs where AOTriton knows the architecture, on some only with
# TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1 (sdp_utils.cpp); Intel's on Max and Arc B (the same file
# under xpu). A T4 lacks the 68 multiprocessors that max-autotune wants (is_big_gpu in inductor's
# utils.py), so that CUDA graphs are what rung 14 may gain there.
STEPS_TABLE = """
                          P100  V100  T4  A100  4090  H100  MI300  RX57  xpu  mps  cpu  old
 1 Causal mask on the fly   .     .    .    .     .     .     .      .    .    .    .    .
 2 TF32                     a     a    a    .     .     .     b      b    b    b    b    b
 3 Fused AdamW              .     .    .    .     .     .     .      .    .    .    .    .
 4 Pinned memory            .     .    .    .     .     .     .      .    .    d    d    d
 5 bfloat16                 c     c    c    .     .     .     .      c    .    .    .    c
 6 Native LayerNorm, GELU   .     .    .    .     .     .     .      .    .    .    .    .
 7 FlashAttention           g     g    g    .     .     .     .      h    i    j    .    .
 8 torch.compile            e     .    .    .     .     .     .      .    .    f    .    .
 9 Vocabulary padding       .     .    .    .     .     .     .      .    .    .    .    .
10 Largest batch            .     .    .    .     .     .     .      .    .    .    .    .
11 DDP on all devices       y     y    y    y     y     y     y      y    y    y    y    y
"""
BEYOND_TABLE = """
                          P100  V100  T4  A100  4090  H100  MI300  RX57  xpu  mps  cpu  old
 1 Loss in graph            e     .    .    .     .     .     .      .    .    f    .    .
 2 Fewer page faults        .     .    .    .     .     .     .      .    k    k    .    .
 3 Chunked head and loss    .     .    .    .     .     .     .      .    .    .    .    .
 4 Fused QKV                l     l    l    .     .     .     .      l    l    l    .    .
 5 Product format           n     n    n    n     n     n     n      n    n    n    .    o
 6 Softmax in place         L     L    L    L     L     L     L      L    L    L    .    .
 7 Blockwise attention      M     M    M    M     M     M     M      M    M    M    .    .
 8 Rows that were read      L     L    L    L     L     L     L      L    L    L    .    .
 9 GELU by a sigmoid        L     L    L    L     L     L     L      L    L    L    .    .
10 int8 logits              m     m    m    m     m     m     m      m    m    m    .    p
11 No dropout               .     .    .    .     .     .     .      .    .    .    q    q
12 Attention backend        r     r    r    .     .     .     .      r    s    s    s    s
13 Resident tokens          .     .    .    .     .     .     .      .    .    .    t    t
14 Compile mode             u     .    .    .     .     .     .      .    v    u    v    v
15 float8 products          w     w    w    w     .     .     w      w    w    w    w    w
16 Largest batch            .     .    .    .     .     .     .      .    .    .    x    x
"""
# Rung 10 names rung 8 as its base, and is left out with it: that is the engine's to say.
MEMORY_TABLE = """
                          P100  V100  T4  A100  4090  H100  MI300  RX57  xpu  mps  cpu  old
 1 Gradients freed          .     .    .    .     .     .     .      .    .    .    .    .
 2 Fused AdamW              .     .    .    .     .     .     .      .    .    .    .    .
 3 Gradient accumulation    .     .    .    .     .     .     .      .    .    .    .    .
 4 Chunked loss             .     .    .    .     .     .     .      .    .    .    .    .
 5 Checkpointing            .     .    .    .     .     .     .      .    .    .    .    .
 6 Selective checkpointing  .     .    .    .     .     .     .      .    .    .    .    .
 7 bfloat16 autocast        c     c    c    .     .     .     .      c    .    .    .    c
 8 bfloat16 throughout      c     c    c    .     .     .     .      c    .    .    .    c
 9 float16 and a scaler     .     .    .    .     .     .     .      .    .    z    z    z
10 Update in backward       .     .    .    .     .     .     .      .    .    .    .    .
11 8-bit moments            .     .    .    .     .     .     .      .    .    .    .    .
12 Activations on the host  .     .    .    .     .     .     .      .    .    A    A    A
13 Garbage collection       .     .    .    .     .     .     .      .    .    .    .    .
"""
DATA_TABLE = """
                          P100  V100  T4  A100  4090  H100  MI300  RX57  xpu  mps  cpu  old
 1 Tokenised once           .     .    .    .     .     .     .      .    .    .    .    .
 2 Memory-mapped tokens     .     .    .    .     .     .     .      .    .    .    .    .
 3 Dynamic padding          .     .    .    .     .     .     .      .    .    .    .    .
 4 Bucketing                .     .    .    .     .     .     .      .    .    .    .    .
 5 Packing                  .     .    .    .     .     .     .      .    .    .    .    .
 6 Packing without a mask   .     .    .    .     .     .     .      .    .    .    .    .
 7 Samples kept             C     C    C    C     C     C     C      C    C    C    C    C
 8 Worker processes         .     .    .    .     .     .     .      .    .    .    .    .
 9 Persistent workers       .     .    .    .     .     .     .      .    .    .    .    .
10 Prefetch factor          .     .    .    .     .     .     .      .    .    .    .    .
11 Pinned memory            .     .    .    .     .     .     .      .    .    d    d    d
12 Prefetch onto the device .     .    .    .     .     .     .      .    .    B    B    B
"""
# torch's int4 kernel for CUDA wants capability 8.0 (int4mm.cu), as rung 3 does.
INFERENCE_TABLE = """
                          P100  V100  T4  A100  4090  H100  MI300  RX57  xpu  mps  cpu  old
 1 KV cache                 .     .    .    .     .     .     .      .    .    .    .    .
 2 Preallocated cache       .     .    .    .     .     .     .      .    .    .    .    .
 3 bfloat16                 c     c    c    .     .     .     .      c    .    .    .    c
 4 Fused attention          .     .    .    .     .     .     .      .    .    .    .    .
 5 Packed weights           F     F    F    F     F     F     F      F    F    F    .    D
 6 int8 weights             D     D    D    .     .     .     .      D    E    E    .    D
 7 int4 weights in groups   D     D    D    .     .     .     .      D    E    E    .    D
 8 Compiled step            e     .    .    .     .     .     .      .    .    f    .    .
 9 Grouped-query attention  .     .    .    .     .     .     .      .    .    .    .    .
10 Multi-query attention    .     .    .    .     .     .     .      .    .    .    .    .
11 Look-up                  .     .    .    .     .     .     .      .    .    .    .    .
12 Draft model              .     .    .    .     .     .     .      .    .    .    .    .
13 Skipped layers           .     .    .    .     .     .     .      .    .    .    .    .
14 Batching                 .     .    .    .     .     .     .      .    .    .    .    .
15 Static batches           .     .    .    .     .     .     .      .    .    .    .    .
16 Continuous batching      .     .    .    .     .     .     .      .    .    .    .    .
"""
COMPRESS_TABLE = """
                          P100  V100  T4  A100  4090  H100  MI300  RX57  xpu  mps  cpu  old
 1 bfloat16                 .     .    .    .     .     .     .      .    .    .    .    .
 2 int8, one scale a matrix .     .    .    .     .     .     .      .    .    .    .    .
 3 int8 asymmetric          .     .    .    .     .     .     .      .    .    .    .    .
 4 int8, a scale a channel  .     .    .    .     .     .     .      .    .    .    .    .
 5 int4 in groups           .     .    .    .     .     .     .      .    .    .    .    .
 6 int8 activations         .     .    .    .     .     .     G      G    G    G    .    .
 7 SmoothQuant              .     .    .    .     .     .     .      .    .    .    .    .
 8 GPTQ                     .     .    .    .     .     .     .      .    .    .    .    .
 9 AWQ                      .     .    .    .     .     .     .      .    .    .    .    .
10 QAT                      .     .    .    .     .     .     .      .    .    .    .    .
11 Mixed precision          .     .    .    .     .     .     .      .    .    .    .    .
12 Magnitude pruning        .     .    .    .     .     .     .      .    .    .    .    .
13 Heads and neurons        .     .    .    .     .     .     .      .    .    .    .    .
14 Taylor scores            .     .    .    .     .     .     .      .    .    .    .    .
15 Lottery ticket           .     .    .    .     .     .     .      .    .    .    .    .
16 2:4 sparsity             H     H    H    .     .     .     H      H    H    H    H    H
"""
# Plain arithmetic; of a width that groups of 32 do not divide the child tells (rung 10).
FINETUNE_TABLE = """
                          P100  V100  T4  A100  4090  H100  MI300  RX57  xpu  mps  cpu  old
 1 Full fine-tuning         .     .    .    .     .     .     .      .    .    .    .    .
 2 Adapters                 .     .    .    .     .     .     .      .    .    .    .    .
 3 LoRA on query and value  .     .    .    .     .     .     .      .    .    .    .    .
 4 LoRA on all layers       .     .    .    .     .     .     .      .    .    .    .    .
 5 Merged                   .     .    .    .     .     .     .      .    .    .    .    .
 6 Switching                .     .    .    .     .     .     .      .    .    .    .    .
 7 Prefix keys and values   .     .    .    .     .     .     .      .    .    .    .    .
 8 Prompt tuning            .     .    .    .     .     .     .      .    .    .    .    .
 9 DoRA                     .     .    .    .     .     .     .      .    .    .    .    .
10 QLoRA                    .     .    .    .     .     .     .      .    .    .    .    .
"""
CONVERGENCE_TABLE = """
                          P100  V100  T4  A100  4090  H100  MI300  RX57  xpu  mps  cpu  old
 1 Linear warm-up           .     .    .    .     .     .     .      .    .    .    .    .
 2 Cosine decay             .     .    .    .     .     .     .      .    .    .    .    .
 3 OneCycle                 .     .    .    .     .     .     .      .    .    .    .    .
 4 Larger batch             .     .    .    .     .     .     .      .    .    .    .    .
 5 Gradient clipping        .     .    .    .     .     .     .      .    .    .    .    .
 6 bfloat16 autocast        c     c    c    .     .     .     .      c    .    .    .    c
 7 bfloat16 weights         c     c    c    .     .     .     .      c    .    .    .    c
 8 Muon                     .     .    .    .     .     .     .      .    .    .    .    .
"""
# What a command does is not known here; variables that the user has set are tests/test_command.py's
ENVIRONMENT_TABLE = """
                          P100  V100  T4  A100  4090  H100  MI300  RX57  xpu  mps  cpu  old
 1 Fewer page faults        .     .    .    .     .     .     .      .    .    .    .    .
 2 Threads                  .     .    .    .     .     .     .      .    .    .    .    .
 3 Bound threads            .     .    .    .     .     .     .      .    .    .    .    .
 4 TF32                     a     a    a    .     .     .     b      b    b    b    b    b
 5 Expandable segments      .     .    .    .     .     .     J      J    J    J    J    J
 6 Inductor's settings      .     .    .    .     .     .     .      .    .    .    .    .
"""
# Of a model that has everything: what a model lacks is in test_own.py.
OWN_TABLE = """
                          P100  V100  T4  A100  4090  H100  MI300  RX57  xpu  mps  cpu  old
 1 TF32 tensor cores        a     a    a    .     .     .     b      b    b    b    b    b
 2 Fused optimizer          .     .    .    .     .     .     .      .    .    .    .    .
 3 Pinned memory            .     .    .    .     .     .     .      .    .    d    d    d
 4 bfloat16 autocast        c     c    c    .     .     .     .      c    .    .    .    c
 5 Channels last            .     .    .    .     .     .     .      .    .    .    .    .
 6 Native modules           .     .    .    .     .     .     .      .    .    .    .    .
 7 Fused attention          .     .    .    .     .     .     .      .    .    .    .    .
 8 Padded head              .     .    .    .     .     .     .      .    .    .    .    .
 9 Fewer page faults        .     .    .    .     .     .     .      .    k    k    .    .
10 torch.compile            e     .    .    .     .     .     .      .    .    f    .    .
11 CUDA graphs              I     .    .    .     .     .     .      .    v    v    v    v
12 bfloat16 weights         c     c    c    .     .     .     .      c    .    .    .    c
13 8-bit moments            K     K    K    K     K     K     K      K    K    K    K    K
14 Checkpointing            .     .    .    .     .     .     .      .    .    .    .    .
15 Accumulation             .     .    .    .     .     .     .      .    .    .    .    .
16 Largest batch            .     .    .    .     .     .     .      .    .    .    .    .
"""
ABOUT = About(
    name="Net",
    parameters=1,
    dtype="float32",
    obeys_size=True,
    optimizer="AdamW",
    has_fused=True,
    convolutions=1,
    products=2,
    batch_norms=0,
    attention="eager",
    blocks=("0", "1"),
    native=(("norm", "RMSNorm", 1e-5, ("weight",)),),
    padded=("head",),
)


def cells(table: str) -> dict[str, dict[int, str]]:
    """By device, then by the rung's number."""
    columns, *rows = table.strip().splitlines()
    return {
        name: {int(row.split()[0]): row.split()[-len(DEVICES) :][place] for row in rows}
        for place, name in enumerate(columns.split())
    }


TABLES = {
    "steps": (STEPS, cells(STEPS_TABLE)),
    "beyond": (BEYOND, cells(BEYOND_TABLE)),
    "memory": (MEMORY, cells(MEMORY_TABLE)),
    "data": (DATA, cells(DATA_TABLE)),
    "inference": (INFERENCE, cells(INFERENCE_TABLE)),
    "compress": (COMPRESS, cells(COMPRESS_TABLE)),
    "finetune": (FINETUNE, cells(FINETUNE_TABLE)),
    "convergence": (CONVERGENCE, cells(CONVERGENCE_TABLE)),
    "environment": (ENVIRONMENT, cells(ENVIRONMENT_TABLE)),
    "own": (OWN, cells(OWN_TABLE)),
}


@pytest.fixture(autouse=True)
def all_compilers(monkeypatch, tmp_path):
    """A Linux machine with whatever torch's compiler and oneDNN need, wherever this test runs."""
    (tmp_path / "Python.h").touch()
    find = importlib.util.find_spec

    def with_triton(name, *package):
        return True if name == "triton" else find(name, *package)

    monkeypatch.setattr(importlib.util, "find_spec", with_triton)
    monkeypatch.setattr(shutil, "which", lambda name, *_: f"/usr/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda name, *_: str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(step05_packed_weights, "packs_bfloat16", lambda: True)
    for name in ("CC", "CXX", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for module in (step02_threads, step03_bound_threads):
        monkeypatch.setattr(module, "allowed_cpus", lambda: 8)


def climbed(ladder: Ladder, device: DeviceFacts) -> dict[int, str | None]:
    """Each rung's answer on top of those that it stands on and that apply, 8 windows at a time."""
    start = replace(auto(device)[1], batch_size=8)
    start = FedRecipe.of(start) if ladder is DATA else start
    start = GenerateRecipe() if ladder is INFERENCE else start
    start = CompressRecipe() if ladder is COMPRESS else start
    start = FinetuneRecipe() if ladder is FINETUNE else start
    start = ConvergenceRecipe.of(start) if ladder is CONVERGENCE else start
    start = CommandRecipe() if ladder is ENVIRONMENT else start
    start = OwnRecipe(about=ABOUT, batch_size=8) if ladder is OWN else start
    foot, answers = ladder.foot(start, device), {}
    for rung in ladder.rungs:
        below = [number for number in ladder.chain(rung.base) if answers[number] is None]
        answers[rung.number] = rung.applies(device, ladder.compose(foot, below))
    return answers


@pytest.mark.parametrize("ladder", TABLES)
@pytest.mark.parametrize("name", DEVICES)
def test_the_table_holds(name, ladder):
    ladder, table = TABLES[ladder]
    answers = climbed(ladder, DEVICES[name])
    assert answers.keys() == table[name].keys()
    for number, cell in table[name].items():
        if cell == ".":
            assert answers[number] is None, number
        else:
            assert WHY_NOT[cell][0] in str(answers[number]), number


def test_the_tables_are_whole():
    tables = [table for _, table in TABLES.values()]
    assert all(table.keys() == DEVICES.keys() for table in tables)
    used = {cell for table in tables for column in table.values() for cell in column.values()}
    assert used == {".", *WHY_NOT}


@pytest.mark.parametrize(
    ("name", "recipe", "words"),
    [
        ("T4", Recipe(dtype=torch.float16), "needs compute capability 8.0"),
        ("A100", Recipe(), "16-bit"),
        ("xpu", Recipe(dropout=0.0), "16-bit"),
        ("xpu", Recipe(dropout=0.0, dtype=torch.bfloat16), None),
        ("mps", Recipe(dropout=0.0, dtype=torch.bfloat16), "no backward pass"),
        ("cpu", Recipe(), "dropout (0.1)"),
        ("cpu", Recipe(dropout=0.0), None),
    ],
)
def test_flash_attention_asks_for_device_format_and_dropout(name, recipe, words):
    reason = step07_flash_attention.applies(DEVICES[name], recipe)
    assert reason is None if words is None else words in reason


def test_weights_are_packed_where_torch_can(monkeypatch):
    monkeypatch.setattr(step05_packed_weights, "packs_bfloat16", lambda: False)
    reason = step05_packed_weights.applies(DEVICES["cpu"], GenerateRecipe(dtype=torch.bfloat16))
    assert "with AVX-512 only" in reason


def test_no_reason_says_that_a_card_lacks_what_it_has():
    """MI300X has FP8 matrix units, Turing and Ampere have INT8 ones."""
    for name in ("T4", "A100", "MI300"):
        reason = step15_float8.applies(DEVICES[name], Recipe(dtype=torch.bfloat16))
        assert "implemented only for" in reason
        assert f"{DEVICES[name].name} has no" not in reason


@pytest.mark.parametrize(
    ("name", "backends"),
    [
        ("T4", "efficient"),
        ("H100", "flash, cudnn, efficient"),
        ("MI300", "flash, efficient"),
        ("xpu", "flash (16 bits, without dropout)"),
        ("mps", "unfused in training"),
        ("cpu", "flash (without dropout)"),
    ],
)
def test_doctor_names_the_kernels_that_can_train(name, backends):
    assert doctor.attention_backends(DEVICES[name]) == backends


@pytest.mark.parametrize("name", DEVICES)
def test_parallel_rungs_ask_for_processes_and_not_for_a_kind_of_device(name):
    foot = parallel.foot(auto(DEVICES[name])[1], DEVICES[name])
    for devices, refused in ((1, {10, 11}), (2, {10, 11}), (4, {11}), (8, set())):
        recipe = ParallelRecipe.of(replace(foot, devices=devices))
        rungs = range(1, parallel.LADDER.top + 1)
        assert refused == {
            n for n in rungs if parallel.LADDER.rung(n).applies(DEVICES[name], recipe)
        }
