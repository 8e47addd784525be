"""A product whose operands have 8 bits, as have those of its gradients: beyond's rung 15."""

import torch

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def scaled(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """x in 8 bits, its largest value the format's, and the factor () that undoes that."""
    factor = x.abs().amax().float().clamp_min(1e-12) / torch.finfo(dtype).max
    return (x / factor).to(dtype), factor


def product(left, right, dtype: torch.dtype, fast: bool = False) -> torch.Tensor:
    """`scaled` (M, K) and `scaled` (N, K) to (M, N): rows with rows, as tensor cores want them.

    `fast`: sums stay in the tensor cores, with fewer bits than float32 has.
    """
    (a, a_factor), (b, b_factor) = left, right
    return torch._scaled_mm(
        a, b.t(), scale_a=a_factor, scale_b=b_factor, out_dtype=dtype, use_fast_accum=fast
    )


class Float8Product(torch.autograd.Function):
    """x (M, K) times weight (N, K) transposed, (M, N); both gradients in 8 bits as well."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return product(scaled(x, E4M3), scaled(weight, E4M3), x.dtype, fast=True)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        (small, factor) = scaled(grad, E5M2)
        turned = [(t.t().contiguous(), f) for t, f in (scaled(x, E4M3), scaled(weight, E4M3))]
        x_grad = product((small, factor), turned[1], grad.dtype)
        weight_grad = product((small.t().contiguous(), factor), turned[0], grad.dtype)
        return x_grad, weight_grad
