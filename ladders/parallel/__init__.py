"""The parallel ladder: from one process to data, sharded, tensor, and pipeline parallelism."""

from common.engine.ladder import Ladder
from common.engine.purpose import Purpose
from common.workloads.parallel.recipe import ParallelRecipe
from common.workloads.parallel.workload import PARALLEL
from common.workloads.train.recipe import Recipe
from ladders.parallel import (
    step01_data_parallel,
    step02_accumulation,
    step03_zero1,
    step04_zero2,
    step05_zero3,
    step06_checkpointing,
    step07_tensor_parallel,
    step08_pipeline,
    step09_one_forward_one_backward,
    step10_mesh_2d,
    step11_mesh_3d,
)
from steps import LADDER as STEPS

ON_ONE = (1, 3, 5, 6, 7, 9)  # of the steps: what one process does in every rung here


def foot(recipe: Recipe, device) -> ParallelRecipe:
    """One process with the steps of ON_ONE that apply, without dropout, whose draws would differ.

    On CPUs in float32, so that gradients can be compared closely.
    """
    recipe = ParallelRecipe.of(recipe, dropout=0.0)
    for number in ON_ONE:
        rung = STEPS.rung(number)
        if rung.applies(device, recipe) is None and (number != 5 or device.type != "cpu"):
            recipe = rung.apply(recipe)
    return recipe


def on_one_device(device) -> str:
    """Why this ladder recommends nothing there."""
    if device.type == "cpu":
        return "processes on a CPU share its cores: the figures show correctness, not speed"
    return "" if device.count > 1 else "there is one device"


LADDER = Ladder(
    name="ladders.parallel",
    foot=foot,
    workload=PARALLEL,
    purpose=Purpose(
        name={"en": "Several devices", "ja": "複数デバイス"},
        about={
            "en": "Training tokens per second, of all processes together.",
            "ja": "全プロセス合計の、学習の 1 秒あたりのトークン数。",
        },
        left_out=on_one_device,
    ),
    note="On CPUs these figures show correctness and memory, not speed: processes share the cores.",
    modules=(
        step01_data_parallel,
        step02_accumulation,
        step03_zero1,
        step04_zero2,
        step05_zero3,
        step06_checkpointing,
        step07_tensor_parallel,
        step08_pipeline,
        step09_one_forward_one_backward,
        step10_mesh_2d,
        step11_mesh_3d,
    ),
)
