"""The size of a GPT-2, and what follows from it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The model's size. No rung of the ladder changes it; GPT-2 124M by default."""

    layers: int = 12
    heads: int = 12
    emb_dim: int = 768  # model width C
    context: int = 1024  # tokens T in a window
    vocab_size: int = 50_257  # GPT-2's byte-pair vocabulary, before any padding

    def flops_per_token(self) -> int:
        """Floating-point operations per token, forward and backward.

        6 N + 12 L H D T, N the parameters that take part in matrix products (an embedding
        look-up is none). Source: Chowdhery et al. 2022, PaLM, appendix B.
        """
        matmul_parameters = 12 * self.layers * self.emb_dim**2 + self.vocab_size * self.emb_dim
        attention = 12 * self.layers * self.emb_dim * self.context  # H D is the width
        return 6 * matmul_parameters + attention
