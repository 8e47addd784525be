"""Matrices with zeros: anywhere, or two of each four neighbours in a row. K inputs, N outputs."""

import torch

from common.workloads.compress.formats import Plain
from common.workloads.compress.grids import pack, unpack


class Masked(Plain):
    """Zeros cost a bit each in the file; in memory, and in a product, they are numbers as others.

    Which weights are zeros: the smallest of each row, as many as the recipe's share.
    """

    label = "mask"

    @classmethod
    def store(cls, weight, recipe, inputs):
        mask = largest(weight, recipe.sparsity)
        shape = torch.tensor(weight.shape, dtype=torch.int32, device=weight.device)
        kept = weight[mask].to(recipe.dtype)
        return {"mask": pack(mask, 1), "kept": kept, "shape": shape.view(torch.uint8)}

    @classmethod
    def dense(cls, tensors):
        shape = tensors["shape"].view(torch.int32).tolist()
        mask = unpack(tensors["mask"], 1, shape).bool()
        found = torch.zeros(shape, dtype=torch.float64, device=mask.device)
        found[mask] = tensors["kept"].double()
        return found


def largest(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """A mask of all weights but the smallest of each row: exactly round(sparsity K) of its K.

    Rows are not compared with each other: those of tokens that a text never has are large in an
    embedding that is a head, and would be kept before all others (LOG.md).
    """
    dropped = round(sparsity * weight.shape[-1])
    smallest = weight.abs().argsort(dim=-1, stable=True)[..., :dropped]
    return torch.ones_like(weight, dtype=torch.bool).scatter(-1, smallest, False)


class TwoFour(Plain):
    """Two of each four neighbours in a row are zeros: what an Ampere GPU's sparse products read.

    A file keeps the other two and 2 bits for the place of each.
    """

    label = "2:4"

    @classmethod
    def store(cls, weight, recipe, inputs):
        fours = weight.unflatten(1, (-1, 4))  # (N, K) -> (N, K / 4, 4)
        places = fours.abs().topk(2, dim=-1).indices.sort(dim=-1).values
        kept = fours.gather(-1, places).flatten(1).to(recipe.dtype)  # (N, K / 2)
        return {"kept": kept, "places": pack(places, 2)}

    @classmethod
    def dense(cls, tensors):
        kept = tensors["kept"].double()
        pairs = kept.unflatten(1, (-1, 2))  # (N, K / 2) -> (N, K / 4, 2)
        places = unpack(tensors["places"], 2, pairs.shape).long()
        fours = pairs.new_zeros(*pairs.shape[:-1], 4)
        return fours.scatter(-1, places, pairs).flatten(1)

    def __init__(self, tensors, bias, dtype, reads: bool = False, multiplies: bool = True) -> None:
        super().__init__(tensors, bias, dtype, reads=True)
        if self.weight.device.type == "cuda":
            self.weight = torch.sparse.to_sparse_semi_structured(self.weight)
            self.operator = "aten::_cslt_sparse_mm"
