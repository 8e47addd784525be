"""Where the time goes: the parts add up, each event finds its part, and the clock never sees it."""

import json
import re
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from common.cli.planning import make_plan, parse
from common.engine.errors import UserError
from common.engine.plan import ALONE, LADDER
from common.gpt.shape import Shape
from common.workloads.train import layers
from common.workloads.train import session as clock
from common.workloads.train.batches import make_loader
from common.workloads.train.build import build, train_step
from common.workloads.train.parts import (
    ATTENTION,
    COPIES,
    ELEMENTWISE,
    GAPS,
    LAYER,
    LOSS,
    MARK,
    NETWORK,
    OPTIMIZER,
    PARTS,
    PRODUCTS,
    WAIT,
    WINDOW,
    part_of,
    part_of_kernel,
)
from common.workloads.train.plot_profile import plot_profile
from common.workloads.train.presets import baseline
from common.workloads.train.profile_report import profile_markdown, profile_text, to_profile
from common.workloads.train.profiling import STEPS, Share, on_host, summary, watch
from common.workloads.train.roofline import Work, least_seconds, least_work
from common.workloads.train.settings import Settings
from tests.conftest import fake_ladder, fake_record, measured

SHAPE = Shape(layers=1, heads=2, emb_dim=32, context=16)
WAITS_S = 0.1


class SlowLoader:
    def __init__(self, *arguments):
        self.loader = make_loader(*arguments)

    def __iter__(self):
        for batch in self.loader:
            time.sleep(WAITS_S)
            yield batch


@pytest.fixture(scope="module")
def profiled(tmp_path_factory) -> SimpleNamespace:
    """The eager baseline with a slow loader, profiled; and which steps a profiler watched."""
    watched, phases = [], []
    trace = tmp_path_factory.mktemp("trace") / "rung-00.json"
    settings = Settings(shape=SHAPE, device="cpu", steps=3, profile=True, trace=str(trace))

    def step(run, inputs, targets):
        watched.append(torch.autograd._profiler_enabled())
        return train_step(run, inputs, targets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "make_loader", SlowLoader)
        patch.setattr(clock, "train_step", step)
        found = measured(baseline("tiny"), settings, tell=phases.append)
    return SimpleNamespace(found=found, watched=watched, phases=phases, trace=trace)


def test_the_parts_add_up_to_the_window(profiled):
    profile = profiled.found.profile
    assert profile["steps"] * sum(profile["parts"].values()) == pytest.approx(profile["window_s"])
    assert all(seconds >= 0 for seconds in profile["parts"].values())
    assert list(profile["parts"]) == list(PARTS)


def test_an_eager_step_has_every_part_of_its_work(profiled):
    parts = profiled.found.profile["parts"]
    assert all(parts[part] > 0 for part in PARTS if part != NETWORK)
    assert parts[NETWORK] == 0  # one process
    assert parts[PRODUCTS] > parts[COPIES]


def test_a_slow_loader_shows_as_data_wait(profiled):
    assert profiled.found.profile["parts"][WAIT] >= WAITS_S


def test_the_dearest_operators_are_kept_in_order(profiled):
    top = profiled.found.profile["top"]
    assert 0 < len(top) <= 10
    assert [one["s"] for one in top] == sorted((one["s"] for one in top), reverse=True)
    products = next(one for one in top if one["name"] == "aten::mm")
    assert products["part"] == PRODUCTS
    # four weights without a bias, and three with one, whose forward product is an addmm
    assert products["calls"] == 4 * 3 + 3 * 2


def test_the_timed_steps_are_not_profiled(profiled):
    # first step, the probes' profiled step, three timed ones; then the profiles' own
    assert profiled.watched == [False, True, False, False, False] + [True] * 2 * (1 + STEPS)
    assert profiled.phases[-3:] == ["timing", "timed", "profiling"]
    assert len(profiled.found.step_s) == 3
    assert len(profiled.found.losses) == 5


def test_the_trace_is_a_chrome_trace(profiled):
    names = {event.get("name") for event in json.loads(profiled.trace.read_text())["traceEvents"]}
    assert {"aten::mm", WINDOW} <= names


@pytest.mark.parametrize(
    ("part", "chain"),
    [
        (PRODUCTS, ["aten::addmm", "aten::linear"]),
        (PRODUCTS, ["aten::mm", "MmBackward0"]),
        (PRODUCTS, ["mkldnn::_linear_pointwise"]),
        (PRODUCTS, ["triton_tem_fused_mm_4"]),
        (PRODUCTS, ["aten::mm", "aten::_linear_cross_entropy_batch_chunking"]),
        (ATTENTION, ["aten::bmm", "aten::matmul"]),
        (ATTENTION, ["aten::_softmax", "aten::softmax"]),
        (ATTENTION, ["aten::_softmax_backward_data", "SoftmaxBackward0"]),
        (ATTENTION, ["aten::masked_fill_"]),
        (ATTENTION, ["aten::_flash_attention_forward", "aten::scaled_dot_product_attention"]),
        (ATTENTION, ["cpp_fused__scaled_dot_product_flash_attention_for_cpu_backward_sum_view_3"]),
        (ELEMENTWISE, ["aten::native_layer_norm"]),
        (ELEMENTWISE, ["aten::mul", "MulBackward0"]),
        (ELEMENTWISE, ["graph_0_cpp_fused_add_native_layer_norm_view_3"]),
        (LOSS, ["cpp_fused_add_amax_copy__mul_round_sum_0", "ladder::int8_softmax_in_place"]),
        (LOSS, ["aten::scatter_", "ladder::loss_and_gradients"]),
        (PRODUCTS, ["aten::_int_mm", "ladder::int8_softmax_in_place"]),
        (PRODUCTS, ["aten::addmm_", "ladder::loss_and_gradients"]),
        (LOSS, ["aten::index_put_", "ladder::softmax_in_place"]),
        (ATTENTION, ["aten::add_", "ladder::blockwise_attention"]),
        (COPIES, ["aten::copy_", "ladder::blockwise_attention_gradients"]),
        (ELEMENTWISE, ["triton_per_fused_addmm_gelu_native_layer_norm_2"]),
        (LOSS, ["aten::_log_softmax", "aten::log_softmax", "aten::cross_entropy_loss"]),
        (LOSS, ["aten::fill_", "aten::zero_", "aten::nll_loss_backward", "NllLossBackward0"]),
        (LOSS, ["triton_red_fused__log_softmax_nll_loss_forward_0"]),
        (LOSS, ["aten::mm", f"{MARK}loss", "MmBackward0"]),
        (OPTIMIZER, ["aten::copy_", "Optimizer.step#AdamW.step"]),
        (OPTIMIZER, ["aten::_fused_adamw_", "Optimizer.step#AdamW.step", WINDOW]),
        (COPIES, ["aten::copy_", "aten::_to_copy", "aten::to"]),
        (COPIES, ["triton_poi_fused__to_copy_transpose_3"]),
        (NETWORK, ["c10d::allreduce_"]),
        (NETWORK, ["FSDP::post_backward_reduce (blocks.1)"]),
        (NETWORK, ["aten::copy_", "c10d::_allgather_base_"]),
        (GAPS, ["aten::transpose"]),
        (GAPS, ["autograd::engine::evaluate_function: MmBackward0"]),
        (GAPS, ["CompiledFunction"]),
        (GAPS, [WINDOW]),
        (GAPS, [f"{LAYER}attention 0"]),
        (PRODUCTS, ["aten::addmm", f"{LAYER}attention 0"]),
    ],
)
def test_an_event_finds_its_part(part, chain):
    assert part_of([*chain, WINDOW]) == part


def test_only_attention_has_four_dimensions():
    assert part_of(["aten::div"], [[2, 12, 64, 64], []]) == ATTENTION
    assert part_of(["aten::div"], [[2, 64, 768], []]) == ELEMENTWISE


def event(name: str, begin: float, end: float, device=DeviceType.CPU, **more) -> SimpleNamespace:
    """A profiler's event, times in microseconds."""
    span = SimpleNamespace(start=begin, end=end, elapsed_us=lambda: end - begin)
    facts = {"id": 0, "linked_correlation_id": 0, "cpu_parent": None, "input_shapes": []}
    facts |= {"is_user_annotation": False, "sequence_nr": -1}
    return SimpleNamespace(name=name, time_range=span, device_type=device, **facts | more)


def test_on_a_gpu_kernels_count_and_idle_time_is_a_wait_or_a_gap():
    """The host launches ahead: kernels run later than the operators that launched them."""
    gpu = DeviceType.CUDA
    mm = event("aten::mm", 10, 20, id=1)
    softmax = event("aten::_softmax", 20, 30, id=2)
    events = [
        event(WINDOW, 0, 1000),
        event(WINDOW, 100, 900, gpu, is_user_annotation=True),
        event(f"{MARK}{WAIT}", 600, 700),
        mm,
        softmax,
        event("cudaLaunchKernel", 12, 13, id=71, linked_correlation_id=1, cpu_parent=mm),
        event("gemm_before_the_window", -50, 0, gpu, id=70),
        event("sgemm_128x64", 100, 400, gpu, id=71, linked_correlation_id=1),
        event("softmax_warp_forward", 350, 500, gpu, id=72, linked_correlation_id=2),
        event("triton_per_fused_native_layer_norm_0", 800, 1100, gpu, id=73),
    ]
    found = summary(events, "cuda")
    expected = {PRODUCTS: 300, ATTENTION: 100, ELEMENTWISE: 200, WAIT: 100, GAPS: 300}
    for part in PARTS:
        assert STEPS * 1e6 * found["parts"][part] == pytest.approx(expected.get(part, 0)), part
    assert STEPS * sum(found["parts"].values()) == pytest.approx(found["window_s"])
    assert found["top"][0] == {"name": "sgemm_128x64", "part": PRODUCTS, "s": 150e-6, "calls": 0.5}


def test_torch_211_links_kernels_by_their_launches_alone():
    """Its events have no linked_correlation_id."""
    mm = event("aten::mm", 10, 20, id=1)
    events = [
        event(WINDOW, 0, 1000),
        mm,
        event("cuLaunchKernelEx", 12, 13, id=71, cpu_parent=mm),
        event("a_name_that_tells_nothing", 100, 400, DeviceType.CUDA, id=71),
    ]
    for one in events:
        del one.linked_correlation_id
    assert STEPS * 1e6 * summary(events, "cuda")["parts"][PRODUCTS] == pytest.approx(300)


@pytest.mark.parametrize(
    ("kernel", "part"),
    [
        ("nvjet_sm90_tst_192x128_64x5_1x2_h_bz_coopB_NNT", PRODUCTS),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128>", PRODUCTS),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", ATTENTION),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_6", ATTENTION),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...>", OPTIMIZER),
        ("void (anonymous namespace)::softmax_warp_forward<...>", LOSS),
        ("Memcpy DtoD (Device -> Device)", COPIES),
        ("void at::native::vectorized_elementwise_kernel<4, ...>", ELEMENTWISE),
    ],
)
def test_a_kernel_of_a_cuda_graph_is_known_by_its_name(kernel, part):
    """The graph's launch, which is no operator, is the launcher of all its kernels."""
    graph = event("ladder_step", 0, 9)
    assert part_of_kernel(kernel, graph) == part_of_kernel(kernel, None) == part


def test_a_profile_that_fails_costs_no_measurement(monkeypatch):
    def broken(*_):
        raise AttributeError("no such thing in this torch")

    monkeypatch.setattr("common.workloads.train.profiling.summary", broken)
    settings = Settings(shape=SHAPE, device="cpu", steps=2, profile=True)
    found = measured(baseline("tiny"), settings)
    assert len(found.step_s) == 2
    assert found.profile == {}
    assert found.lacking == "no profile: AttributeError: no such thing in this torch"


def test_a_kernel_is_named_by_the_compiler_or_by_its_launcher():
    optimizer = event("Optimizer.step#AdamW.step", 0, 9)
    launcher = event("aten::_foreach_mul_", 0, 9, cpu_parent=optimizer)
    graph = event("CompiledFunction", 0, 9)
    assert part_of_kernel("multi_tensor_apply_kernel", launcher) == OPTIMIZER
    assert part_of_kernel("triton_red_fused_nll_loss_forward_1", graph) == LOSS
    assert part_of_kernel("vectorized_elementwise_kernel", None) == ELEMENTWISE


def test_layers_add_up_to_the_steps_that_were_profiled_for_them(profiled):
    found = profiled.found.profile["layers"]
    assert list(found["parts"]) == list(layers.LAYERS)
    total = sum(map(sum, found["parts"].values()))
    assert STEPS * total == pytest.approx(found["window_s"])
    assert [len(found["parts"][layer]) for layer in layers.OF_BLOCKS] == [1, 1, 2]
    for layer in (layers.EMBEDDING, *layers.OF_BLOCKS, layers.HEAD, LOSS, OPTIMIZER):
        assert all(seconds > 0 for seconds in found["parts"][layer]), layer


def test_each_product_finds_its_layer_backward_too():
    """By the operators of one step: a linear layer has one product forward and two backward."""
    shape = replace(SHAPE, layers=2)
    run = build(baseline("tiny"), shape, torch.device("cpu"))
    ids = torch.zeros(2, shape.context, dtype=torch.long)
    with layers.ranges(layers.places(run)):
        events = list(watch(lambda: train_step(run, ids, ids), run.device).events())
    window, made = next(e for e in events if e.name == WINDOW), layers.makers(events)
    shares = [s for s in on_host(events, window) if s.part in (PRODUCTS, ATTENTION)]
    products = [s for s in shares if re.fullmatch(r"aten::(add)?b?mm", s.name)]
    found = Counter(layers.place_of(share, made) for share in products)
    of_blocks = {
        (layer, n): STEPS * count
        for n in (0, 1)
        for layer, count in ((layers.ATTENTION, 3 * 4 + 3 * 2), (layers.FEED_FORWARD, 6))
    }
    assert found == of_blocks | {(layers.HEAD, 0): STEPS * 3}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in run.objective.modules())


def test_a_head_inside_of_the_loss_is_told_by_its_products():
    here = event(f"{LAYER}{LOSS} 0", 0, 9)
    product = event("aten::mm", 1, 2, cpu_parent=here)
    other = event("aten::add", 2, 3, cpu_parent=here)
    assert layers.place_of(Share("aten::mm", PRODUCTS, 1.0, product), {}) == (layers.HEAD, 0)
    assert layers.place_of(Share("aten::add", ELEMENTWISE, 1.0, other), {}) == (LOSS, 0)


def test_on_a_gpu_a_kernel_belongs_to_the_layer_that_launched_it():
    here = event(f"{LAYER}feed-forward 1", 0, 30)
    forward = event("aten::addmm", 10, 20, id=1, cpu_parent=here, sequence_nr=5)
    node = event(f"{layers.BACKWARD}: AddmmBackward0", 40, 60, sequence_nr=5)
    backward = event("aten::mm", 42, 50, id=2, cpu_parent=node)
    unknown = event(f"{layers.BACKWARD}: torch::autograd::AccumulateGrad", 60, 70)
    copy = event("aten::copy_", 61, 62, id=3, cpu_parent=unknown)
    gpu = DeviceType.CUDA
    launch = "cudaLaunchKernel"
    events = [
        event(WINDOW, 0, 1000),
        *(here, forward, node, backward, unknown, copy),
        event(launch, 12, 13, id=71, cpu_parent=forward),
        event(launch, 43, 44, id=72, cpu_parent=backward),
        event(launch, 61, 62, id=73, cpu_parent=copy),
        event("gemm", 100, 200, gpu, id=71),
        event("gemm", 200, 500, gpu, id=72),
        event("copy", 500, 600, gpu, id=73),
        event("of a launch that is not in the profile", 600, 650, gpu, id=74),
    ]
    parts = layers.by_layer(events, "cuda", blocks=2)["parts"]
    assert [STEPS * 1e6 * s for s in parts[layers.FEED_FORWARD]] == pytest.approx([0, 400])
    assert STEPS * 1e6 * parts[layers.OTHER][0] == pytest.approx(150)
    assert STEPS * 1e6 * sum(map(sum, parts.values())) == pytest.approx(1000)


def test_a_compiled_model_is_not_cut_into_layers():
    def step():
        raise AssertionError("no step is needed to know")

    run = SimpleNamespace(recipe=SimpleNamespace(compile=True))
    assert layers.layers_or_reason(step, run) == {"lacking": layers.ONE_GRAPH}


def test_layers_that_fail_cost_neither_the_measurement_nor_the_profile(monkeypatch):
    def broken(*_):
        raise AttributeError("no such thing in this torch")

    monkeypatch.setattr(layers, "by_layer", broken)
    found = measured(baseline("tiny"), Settings(shape=SHAPE, device="cpu", steps=2, profile=True))
    assert found.profile["layers"] == {"lacking": "AttributeError: no such thing in this torch"}
    assert sum(found.profile["parts"].values()) > 0
    assert not found.lacking


def test_the_roofline_of_a_small_model_by_hand():
    shape = Shape(layers=1, heads=1, emb_dim=2, context=2, vocab_size=3)
    tokens, parameters = 4, 88  # 12 C^2 + 10 C + 2 C + T C + 2 V C
    found = least_work(shape, tokens, element=4)
    assert found == {
        PRODUCTS: Work(6 * 4 * (48 + 6), 4 * 3 * (16 * 4 * 2 + 4 * 2 + 48 + 6)),
        ATTENTION: Work(6 * 2 * 2 * 4, 4 * 12 * 4 * 2),
        ELEMENTWISE: Work(3 * 22 * 8 + 27 * 4 * 8, 4 * (3 * 64 + 160 + 8 + 5 * 2) + 8 * 4),
        LOSS: Work(5 * 4 * 3, 8 * 4),
        OPTIMIZER: Work(14 * parameters, 4 * 7 * parameters),
    }
    full_attention = 12 * 2 * 2  # L C T per token: the shape's own count has no causal half
    assert found[PRODUCTS].flops == tokens * (shape.flops_per_token() - full_attention)


def test_a_part_needs_the_longer_of_its_two_times():
    assert Work(flops=100, bytes=10).seconds(flops_per_s=10, bytes_per_s=10) == 10
    assert Work(flops=100, bytes=10).seconds(flops_per_s=100, bytes_per_s=1) == 10


def test_without_a_ceiling_there_is_no_roofline():
    ceilings = {"float32": 1e9, "copy": 1e9}
    assert least_seconds(fake_record(0, 1, 100.0)) == {}
    assert least_seconds(fake_record(0, 1, 100.0, ceilings=ceilings, format="bfloat16")) == {}
    assert least_seconds(fake_record(0, 1, 100.0, ceilings=ceilings, processes=2)) == {}
    assert min(least_seconds(fake_record(0, 1, 100.0, ceilings=ceilings)).values()) > 0


def with_profile(records: list[dict]) -> list[dict]:
    """The records of a ladder, those of the first round with a profile of 10 ms in every part."""
    top = [{"name": "k" * 200, "part": PRODUCTS, "s": 0.01, "calls": 3.5}]
    for record in records:
        if record["round"] == 1:
            window_s = STEPS * 0.01 * len(PARTS)
            parts = dict.fromkeys(PARTS, 0.01)
            profile = {"steps": STEPS, "window_s": window_s, "parts": parts, "top": top}
            record["measurement"]["profile"] = profile
    return records


@pytest.mark.parametrize("ceilings", [{}, {"float32": 1e9, "copy": 1e9}])
def test_the_table_the_page_and_the_picture(tmp_path, ceilings):
    rates = {number: [100.0, 110.0] for number in range(11)}
    records = with_profile(fake_ladder(rates, ceilings=ceilings, name="A rung with a long name"))
    frame = to_profile(records)
    assert len(frame) == 11
    assert frame["profiled_ms"][0] == pytest.approx(1e6 * 0.01 * len(PARTS) / 32)
    assert frame["explained"].notna().all() == bool(ceilings)
    text = profile_text(frame)
    assert max(map(len, text.splitlines())) <= 80
    page = profile_markdown(frame, records)
    assert page.count("A rung with a long name") == 3 * 11
    assert ("n/a" in page) != bool(ceilings)
    plot_profile(frame, records, tmp_path / "profile.png")
    assert (tmp_path / "profile.png").stat().st_size > 500


def test_records_without_a_profile_have_no_row():
    assert to_profile(fake_ladder({0: [100.0], 1: [100.0]})).empty


def test_only_the_first_round_of_the_ladder_is_profiled(tmp_path):
    line = ["--preset", "tiny", "--device", "cpu", "--profile", "--trace", str(tmp_path)]
    plan, _ = make_plan(*parse(line))
    settings = plan.settings
    asked = plan.settings_of(1, LADDER, 7)
    assert asked.profile
    assert asked.trace == str(tmp_path.resolve() / "rung-07.json")
    assert plan.settings_of(2, LADDER, 7) == plan.settings_of(1, ALONE, 7) == settings


def test_a_trace_folder_that_cannot_be_written_is_a_sentence():
    options = ["--preset", "tiny", "--device", "cpu", "--trace", "/proc/traces"]
    with pytest.raises(UserError, match="--trace /proc/traces: cannot be written"):
        make_plan(*parse(options))
