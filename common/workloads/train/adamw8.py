"""AdamW whose moments take a byte each: 2.03 bytes a parameter, where float32 takes 8."""

import torch

BLOCK = 256  # elements that share a scale, a float32
PIECE = 2**17  # elements that are updated at a time: 5 MiB of temporaries
# A code's value is its share of the highest code, to a power, of the block's largest element: codes
# are dense near 0. The second moment's least is 2e-10 of the largest, so that hardly any is 0.
FIRST, SECOND = (127, 2), (255, 4)  # highest code, power


class AdamW8(torch.optim.Optimizer):
    """AdamW, with moments in 8 bits between updates and in float32 within one.

    The second moment changes by a thousandth in an update, far less than from one code to the next,
    and would stand still if it were rounded to the nearest: it is rounded up or down by chance, so
    that its mean is right. Source: Dettmers et al. 2022, 8-bit Optimizers via Block-wise
    Quantization, arXiv:2110.02861 (blocks; its codes are others, its optimizer rounds to nearest).
    """

    state_bytes = 2 * (1 + 4 / BLOCK)  # for each parameter
    piece, scratch_bytes = PIECE, 41  # elements at a time, and what each takes meanwhile: counted

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, fused=None
    ) -> None:
        """As torch.optim.AdamW; `fused` is not looked at."""
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, options)
        self.chance: dict[torch.device, torch.Generator] = {}  # its own: dropout draws the same

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, group)

    def update(self, parameter: torch.Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state.update(fresh(parameter))
        state["step"] += 1
        weights, gradient = parameter.view(-1), parameter.grad.reshape(-1)
        for begin in range(0, len(weights), PIECE):
            piece = slice(begin, begin + PIECE)
            blocks = slice(begin // BLOCK, (begin + PIECE) // BLOCK)
            self.update_piece(weights[piece], gradient[piece], state, blocks, group)

    def update_piece(self, weights, gradient, state: dict, blocks: slice, group: dict) -> None:
        """Source: Loshchilov, Hutter 2019, arXiv:1711.05101, algorithm 2."""
        (beta1, beta2), step, size = group["betas"], state["step"], len(weights)
        gradient = gradient.float()
        first = decoded(state["first"][blocks], state["first_scale"][blocks], *FIRST)
        second = decoded(state["second"][blocks], state["second_scale"][blocks], *SECOND)
        first[:size].lerp_(gradient, 1 - beta1)
        second[:size].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (second[:size] / (1 - beta2**step)).sqrt_().add_(group["eps"])
        new = weights.float().mul_(1 - group["lr"] * group["weight_decay"])
        new.addcdiv_(first[:size], root, value=-group["lr"] / (1 - beta1**step))
        weights.copy_(new)
        del root, new
        for name, moment, code in (("first", first, FIRST), ("second", second, SECOND)):
            draw = self.drawn(moment) if name == "second" else None
            codes, scale = encoded(moment.view(-1, BLOCK), *code, draw)
            state[name][blocks], state[f"{name}_scale"][blocks] = codes, scale

    def drawn(self, like: torch.Tensor) -> torch.Tensor:
        """Numbers from 0 to below 1."""
        if like.device not in self.chance:
            self.chance[like.device] = torch.Generator(like.device).manual_seed(0)
        generator = self.chance[like.device]
        return torch.rand(like.shape, generator=generator, device=like.device).view(-1, BLOCK)


def fresh(parameter: torch.Tensor) -> dict:
    """The state before the first update: moments of 0, in whole blocks."""
    blocks, device = -(-parameter.numel() // BLOCK), parameter.device
    state: dict = {"step": 0}
    for name, dtype in (("first", torch.int8), ("second", torch.uint8)):
        state[name] = torch.zeros(blocks, BLOCK, dtype=dtype, device=device)
        state[f"{name}_scale"] = torch.zeros(blocks, 1, device=device)
    return state


def decoded(codes: torch.Tensor, scale: torch.Tensor, highest: int, power: int) -> torch.Tensor:
    """Codes (N, BLOCK) and scales (N, 1) to float32 (N BLOCK)."""
    shares = codes.float().div_(highest)
    return shares.abs().pow_(power - 1).mul_(shares).mul_(scale).view(-1)  # keeps the sign


def encoded(
    values: torch.Tensor, highest: int, power: int, draw: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (N, BLOCK) to codes and scales; to the nearest, or by chance with the mean right."""
    scale = values.abs().amax(dim=1, keepdim=True)
    shares = values.abs() / scale.clamp_min(torch.finfo(torch.float32).tiny)
    codes = shares.pow(1 / power).mul_(highest)
    if draw is None:
        codes.round_()
    else:
        codes.floor_().clamp_max_(highest - 1)
        low, high = (codes / highest).pow_(power), ((codes + 1) / highest).pow_(power)
        codes += draw < (shares - low).div_(high.sub_(low))
    return codes.mul_(values.sign()), scale
