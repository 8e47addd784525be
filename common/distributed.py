"""Training on several devices: one process each, started by torchrun."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError
from common.train import World

HEADROOM_GIB = 1.5  # for NCCL's buffers and DDP's gradient buckets beside the model


@contextmanager
def processes(device_type: str) -> Iterator[World]:
    """Join the processes that torchrun started, and leave them cleanly.

    Raises UserError where torchrun did not start this process or a device is missing.
    """
    if "RANK" not in os.environ:
        raise UserError(
            "this script is started by torchrun: "
            "torchrun --nproc_per_node=4 02_opt_multi_gpu_ddp.py (one process per device)"
        )
    local_rank = int(os.environ["LOCAL_RANK"])
    if device_type != "cpu":
        count = torch.accelerator.device_count()
        if local_rank >= count:
            raise UserError(f"--nproc_per_node: more than the {count} {device_type} device(s) here")
        torch.accelerator.set_device_index(local_rank)
    dist.init_process_group(
        "nccl" if device_type == "cuda" else None if device_type == "xpu" else "gloo"
    )
    device = torch.device(device_type, local_rank) if device_type != "cpu" else torch.device("cpu")

    def wrap(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(
            model,
            device_ids=None if device_type == "cpu" else [local_rank],
            gradient_as_bucket_view=True,  # gradients live in the buckets: no second copy
        )

    def slowest(value: float) -> float:
        tensor = torch.tensor(value, device=device, dtype=torch.float32)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.item()

    def from_first(value: int) -> int:
        tensor = torch.tensor(value, device=device)
        dist.broadcast(tensor, src=0)
        return int(tensor.item())

    try:
        yield World(
            rank=dist.get_rank(),
            size=dist.get_world_size(),
            local_rank=local_rank,
            headroom_gib=HEADROOM_GIB,
            wrap=wrap,
            slowest=slowest,
            from_first=from_first,
        )
    finally:
        dist.destroy_process_group()
