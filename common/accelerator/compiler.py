"""Whether torch.compile can work here, and what it did."""

import importlib.util
import os
import shutil
import struct
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from common.engine.machine import cache_dir


def missing_compiler(device) -> str | None:
    """Why torch.compile cannot work on this device, or None."""
    if device.type == "mps":
        return "torch.compile for Apple GPUs is a prototype"
    if device.type == "cpu":
        wanted = os.environ.get("CXX", "g++")
        if shutil.which(wanted) is None:
            return f"no C++ compiler: {wanted} not found (install one, or set CXX)"
        return None
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not (cc := os.environ.get("CC")) and not any(map(shutil.which, ("clang", "gcc"))):
        return "Triton needs a C compiler: neither clang nor gcc found (install one, or set CC)"
    if cc and shutil.which(cc) is None:
        return f"Triton needs a C compiler: {cc}, named by CC, not found"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return f"Triton needs Python.h: install the development files of Python {version}"
    if device.capability and device.vendor == "nvidia" and device.capability < (7, 0):
        return f"Triton needs compute capability 7.0; {device.name} has {device.capability_text}"
    return None


def compile_cache() -> dict[str, str]:
    """The variable that gives torch's compiler a cache of the project's own; none if there is one.

    A cache that is shared with others could not be emptied when it is damaged. A process that is
    killed while it compiles leaves half a library there, for which torch 2.13 fails, or takes the
    processor for one without vector instructions.
    """
    name = "TORCHINDUCTOR_CACHE_DIR"
    if os.environ.get(name):
        return {}
    if not all(map(is_whole, own_compile_cache().rglob("*.so"))):
        empty_compile_cache()
    return {name: str(own_compile_cache())}


def is_whole(library: Path) -> bool:
    """Whether a shared library's last part is there, as far as its header tells.

    Source: the ELF-64 object file format, file header: its section table comes last.
    """
    with library.open("rb") as file:
        header = file.read(64)
    if not header.startswith(b"\x7fELF\x02\x01"):
        return len(header) == 64  # of another system
    (table,) = struct.unpack_from("<Q", header, 0x28)
    size, count = struct.unpack_from("<HH", header, 0x3A)
    return library.stat().st_size >= table + size * count


@contextmanager
def with_compile_cache() -> Iterator[None]:
    """Give this process that cache, for as long as the block lasts."""
    own = compile_cache()
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            del os.environ[name]


def own_compile_cache() -> Path:
    return cache_dir().absolute() / f"compiled-{torch.__version__}"


def empty_compile_cache() -> bool:
    """Drop what is in it. Whether it is in use and there was anything."""
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") or not own_compile_cache().exists():
        return False
    shutil.rmtree(own_compile_cache(), ignore_errors=True)
    return True


def compiled_graphs() -> tuple[int, int]:
    """(graphs compiled, graph breaks) so far in this process."""
    if "torch._dynamo" not in sys.modules:  # importing it takes a second
        return 0, 0
    counters = torch._dynamo.utils.counters  # documented by torch as its debugging counters
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def from_cache() -> bool:
    """Whether a graph of this process was found in the compiler's caches, not compiled here."""
    if "torch._dynamo" not in sys.modules:
        return False
    counters = torch._dynamo.utils.counters
    hits = counters["inductor"]["fxgraph_cache_hit"], counters["aot_autograd"]["autograd_cache_hit"]
    return any(hits)


def cuda_graph_skips() -> int:
    """How many graphs were compiled without the CUDA graph that was asked for, in this process."""
    if "torch._dynamo" not in sys.modules:
        return 0
    return torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]


def forget_graphs() -> None:
    """Drop what was compiled in this process so far, and its count."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()


def name_fused_kernels() -> None:
    """From the next compilation on, kernels for CPUs show in a profile under their own names.

    Otherwise a profile shows only the compiled graph that calls them. What was compiled before is
    dropped: to be called where nothing is timed any more.
    """
    forget_graphs()
    torch._inductor.config.cpp.enable_kernel_profile = True
