"""The parts of a training step by kind of work, and which one an event of a profile belongs to.

By its name, by what it runs inside of, and by its shapes: in this model only attention has products
in batches and tensors with four dimensions, (B, H, T, D) or (B, H, T, T). Code may also say so
itself: all that runs inside of `torch.profiler.record_function("ladder::loss")` belongs to the part
"loss".
"""

import re
from collections.abc import Iterable

MARK = "ladder::"  # of a range that names its part
WINDOW, LAYER = f"{MARK}window", f"{MARK}layer "  # ranges that do no work themselves
PRODUCTS, ATTENTION, ELEMENTWISE = "matrix products", "attention", "normalisation and elementwise"
LOSS, OPTIMIZER, COPIES, NETWORK = "loss", "optimizer", "copies", "network"
WAIT, GAPS = "data wait", "gaps"
PARTS = (PRODUCTS, ATTENTION, ELEMENTWISE, LOSS, OPTIMIZER, COPIES, NETWORK, WAIT, GAPS)

IN_LOSS = re.compile(
    r"cross_entropy|nll_loss|log_softmax|NllLoss|LogSoftmax|"
    r"ladder::(loss_and_gradients|\w*softmax_in_place)"
)
IN_ATTENTION = re.compile(
    r"scaled_dot_product|(flash|efficient|cudnn|flex|blockwise)_attention|ScaledDot"
)
IN_NETWORK = re.compile(  # between processes
    r"_?c10d|gloo:|nccl:|xccl:|ncclDevKernel|FSDP::(all_gather|post_backward_reduce)"
)
OF_ATTENTION = re.compile(r"bmm|softmax|masked_fill|tri[ul]")
OF_PRODUCTS = re.compile(
    r"_?(int_|add)?mm_?(_activation)?|matmul|(mkldnn_|mkl_|_)?linear\w*|_scaled_mm"
)
OF_COPIES = re.compile(r"(_foreach_)?copy_|_to_copy|to|clone|contiguous|item|_local_scalar_dense")
FUSED = re.compile(r"(cpp|triton_[a-z]+)_fused_(\w+?)_?\d*$")  # a kernel of torch.compile's
ONLY_MOVED = re.compile(r"((_to_copy|clone|copy_?|view|transpose|permute|t)(_|$))+")
COMPILED = "## Call CompiledFxGraph"
# host functions of CUDA's runtime and driver, of HIP, and of SYCL's and Level Zero's adapters, that
# launch a kernel or a copy under its number
LAUNCH = re.compile(r"(cuda|cu|hip|ur|ze)[A-Z]")
OF_LIBRARIES = {  # kernels of CUDA's and ROCm's libraries and of torch, by their names
    ATTENTION: re.compile(r"flash_(fwd|bwd)|fmha|sdpa|attn|attention", re.IGNORECASE),
    OPTIMIZER: re.compile(r"multi_tensor_apply|FusedAdam", re.IGNORECASE),
    LOSS: re.compile(r"nll_loss|softmax|cross_entropy", re.IGNORECASE),
    PRODUCTS: re.compile(r"gemm|nvjet|xmma|cutlass|Cijk_|splitK", re.IGNORECASE),
    COPIES: re.compile(r"Memcpy|Memset|direct_copy|CatArrayBatched"),
}
BOOKKEEPING = re.compile(  # operators that look at a tensor differently, or make room for one
    r"(_unsafe_)?view|_?reshape(_alias)?|(un)?flatten|(un)?squeeze|expand(_as)?|t|transpose|"
    r"permute|as_strided|select|slice|narrow|split|chunk|unbind|alias|detach|lift_fresh|set_|"
    r"(new_)?empty(_like|_strided)?|resize_|resolve_(conj|neg)|result_type"
)


def around(event) -> list:
    """The events that this one ran inside of, innermost first."""
    found = []
    while event.cpu_parent is not None:
        event = event.cpu_parent
        found.append(event)
    return found


def part_of_kernel(kernel: str, launcher) -> str:
    """The part of a kernel: by its own name if the compiler gave it one, else by its launcher.

    Where the launcher is unknown or tells nothing, as that of a CUDA graph, which launches all of
    its kernels at once, a library's kernel is known by its name; what is left is elementwise.
    """
    chain = [e.name for e in (launcher, *around(launcher))] if launcher else []
    if FUSED.search(kernel) or IN_NETWORK.match(kernel):
        chain.insert(0, kernel)
    part = part_of(chain, launcher.input_shapes if launcher else []) if chain else GAPS
    if part != GAPS:
        return part
    named = (part for part, pattern in OF_LIBRARIES.items() if pattern.search(kernel))
    return next(named, ELEMENTWISE)


def part_of(chain: list[str], shapes: Iterable = ()) -> str:
    """The part of an event. `chain`: its name, then what it ran inside of, innermost first."""
    for name in chain:
        if name.startswith(MARK) and name.removeprefix(MARK) in PARTS:
            return name.removeprefix(MARK)
        if name.startswith("Optimizer."):  # torch's own range around step() and zero_grad()
            return OPTIMIZER
    if any(IN_NETWORK.match(name) for name in chain):
        return NETWORK
    if fused := FUSED.search(chain[0]):
        for part, pattern in ((ATTENTION, IN_ATTENTION), (LOSS, IN_LOSS)):
            if any(pattern.search(name) for name in chain[1:]):  # an operator that is compiled
                return part
        return _part_of_fused(fused[1], fused[2])
    space, _, operator = chain[0].rpartition("::")
    by_torch = space and "autograd" not in space and not chain[0].startswith((WINDOW, LAYER))
    if not by_torch or BOOKKEEPING.fullmatch(operator):
        return GAPS
    if OF_PRODUCTS.fullmatch(operator):  # also the head's, inside of a loss that makes its logits
        return PRODUCTS
    if any(IN_LOSS.search(name) for name in chain):
        return LOSS
    if OF_COPIES.fullmatch(operator):
        return COPIES
    heads = any(len(shape) == 4 for shape in shapes or ())
    if heads or OF_ATTENTION.search(operator) or any(IN_ATTENTION.search(n) for n in chain):
        return ATTENTION
    return ELEMENTWISE


def _part_of_fused(kind: str, operators: str) -> str:
    """The part of a compiled kernel, which is named after the operators that it fuses."""
    if IN_LOSS.search(operators):
        return LOSS
    if IN_ATTENTION.search(operators) or OF_ATTENTION.search(operators):
        return ATTENTION
    if kind == "triton_tem":  # a template: a matrix product with what follows it
        return PRODUCTS
    return COPIES if ONLY_MOVED.fullmatch(operators) else ELEMENTWISE
