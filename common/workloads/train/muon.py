"""Muon for weight matrices, AdamW for all other parameters."""

import torch

# A polynomial that, applied five times, takes singular values from 0.003 to 1 to between 0.65 and
# 1.25: Jordan et al. 2024, kellerjordan.github.io/posts/muon
STEPS, LINEAR, CUBIC, QUINTIC = 5, 3.4445, -4.7750, 2.0315
# The root mean square of AdamW's updates, which Muon's are given, so that both take the same
# learning rate and weight decay: Liu et al. 2025, Muon is Scalable, arXiv:2502.16982, section 2.2.
# Jordan's own scale, sqrt(max(1, rows / columns)), needs a rate of its own (KellerJordan/Muon#16).
RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal: every direction of a matrix moves alike.

    Of groups that say "matrices"; the others are AdamW's. Source: Jordan et al. 2024, Muon.
    """

    def __init__(self, params, lr=1e-3, weight_decay=0.01, fused=None, momentum=0.95) -> None:
        """As torch.optim.AdamW, to which `fused` is given."""
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, options | {"matrices": False})
        self.adamw = torch.optim.AdamW(self.others, lr, weight_decay=weight_decay, fused=fused)

    @property
    def others(self) -> list[dict]:
        return [group for group in self.param_groups if not group["matrices"]]

    @torch.no_grad()
    def step(self, closure=None) -> None:
        # they are others once a state was loaded
        self.adamw.param_groups, self.adamw.state = self.others, self.state
        self.adamw.step()
        for group in self.param_groups:
            for parameter in group["params"] if group["matrices"] else ():
                if parameter.grad is not None:
                    self.update(parameter, group)

    def update(self, parameter: torch.Tensor, group: dict) -> None:
        state, beta = self.state[parameter], group["momentum"]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - beta)
        ahead = parameter.grad.lerp(state["momentum"], beta)  # Nesterov's
        rate = group["lr"]
        parameter.mul_(1 - rate * group["weight_decay"])
        # an orthogonal matrix's root mean square is 1 / sqrt of its longer side
        scale = RMS * max(parameter.shape) ** 0.5
        parameter.add_(orthogonal(ahead).to(parameter.dtype), alpha=-rate * scale)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """(M, N) to about the nearest matrix whose singular values are all 1.

    In bfloat16 on accelerators, as the iteration was made for. Newton-Schulz: Higham 2008,
    Functions of Matrices, chapter 8.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    x = matrix.float() if matrix.device.type == "cpu" else matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        square = x @ x.T
        x = LINEAR * x + (CUBIC * square + QUINTIC * square @ square) @ x
    return x
