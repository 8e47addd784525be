"""What is kept of the tokens so far: their ids, or their keys and values, layer by layer.

A forward pass of n new tokens calls `begin` once, `extend` in every layer, and `seen` for the mask.
Requests that are equally long share their positions, (n,); a cache for uneven ones gives each its
own, (B, n), and a mask of its own.
Shapes: B requests, n new tokens, t tokens so far with them, H heads, D head width.
"""

import torch

from common.gpt.shape import Shape


class Cache:
    """Room for `capacity` tokens of each of B requests, in the dtype of keys and values.

    `shape` has their heads and width, which may be fewer than the queries'.
    Tokens are taken back by `rollback`: a refused draft's, or all of them before another prompt.
    """

    def __init__(
        self, shape: Shape, dtype: torch.dtype, requests: int, capacity: int, device: torch.device
    ) -> None:
        if capacity > shape.context:
            raise ValueError(f"{capacity} slots: the model has {shape.context} positions")
        self.shape, self.dtype, self.requests, self.capacity = shape, dtype, requests, capacity
        self.length = 0  # tokens of each request; of uneven ones, of the longest
        self.places = torch.arange(capacity, device=device)

    def begin(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """New ids (B, n) to the ids that must run, and the positions of these: (n,) or (B, n).

        Raises IndexError where there is no room for them; the cache then is as it was.
        """
        start, end = self.length, self.length + ids.shape[1]
        if end > self.capacity:
            raise IndexError(f"{end} tokens: the cache has room for {self.capacity}")
        self.length = end
        return ids, self.places[start:end]

    def extend(self, layer: int, key, value, positions) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep a layer's new keys and values, (B, H, n, D) each; gives all so far, (B, H, t, D)."""
        raise NotImplementedError

    def seen(self, positions: torch.Tensor) -> torch.Tensor | None:
        """(n, t) bool, True where a new token sees a key; None: a single one, which sees all.

        Of positions (B, n): (B, 1, n, t), for the heads to share.
        """
        if len(positions) == 1:
            return None
        return self.places[: self.length] <= positions[:, None]

    def rollback(self, length: int) -> None:
        """Keep the first tokens only; those behind them are forgotten."""
        if not 0 <= length <= self.length:
            raise ValueError(f"{length} tokens to keep, of {self.length}")
        self.length = length

    def admit(self, request: int, read: "Cache") -> None:
        """Another request takes that row, with the tokens of `read`, a cache of it alone.

        For uneven requests, as is `release`.
        """
        raise NotImplementedError

    def release(self, request: int) -> None:
        """Nobody is in that row until `admit`: each pass writes there at position 0 again."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values that are held."""
        return 0

    def reads(self, length: int) -> int:
        """Bytes of keys and values that a new token reads, the last of so many."""
        element = self.dtype.itemsize
        return 2 * self.shape.layers * self.requests * length * self.shape.emb_dim * element


class Recomputed(Cache):
    """Keeps the ids alone: all tokens run again for every new one."""

    def __init__(self, shape, dtype, requests, capacity, device) -> None:
        super().__init__(shape, dtype, requests, capacity, device)
        self.ids = torch.empty(requests, 0, dtype=torch.int64, device=device)

    def begin(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        super().begin(ids)
        self.ids = torch.cat([self.ids, ids], dim=1)
        return self.ids, self.places[: self.length]

    def extend(self, layer: int, key, value, positions):
        return key, value

    def rollback(self, length: int) -> None:
        super().rollback(length)
        self.ids = self.ids[:, :length]

    def reads(self, length: int) -> int:
        return 0
