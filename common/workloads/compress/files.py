"""Models in files, byte for byte: safetensors, written without its library.

The format is 8 bytes with the length of a header, the header in JSON, and the tensors' bytes.
Source: huggingface/safetensors, README (format), where the header is padded to a multiple of 8.
"""

import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch

from common.workloads.generate.published import DTYPES, read_safetensors

NAMES = {dtype: name for name, dtype in DTYPES.items()}
CHECKSUM = "crc32"  # among the metadata: of all tensors' bytes, by which damage is noticed

Tensors = Mapping[str, torch.Tensor]


def header_of(tensors: Tensors, metadata: dict[str, str]) -> bytes:
    """What stands before the tensors' bytes. They may be on no device (meta)."""
    table, end = {"__metadata__": metadata}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        about = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        table[name] = about | {"data_offsets": [begin, end]}
    told = json.dumps(table, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)
    return len(told).to_bytes(8, "little") + told


def file_bytes(tensors: Tensors, metadata: dict[str, str]) -> int:
    """How long their file is, without writing it."""
    whole = {CHECKSUM: "00000000"} | metadata
    return len(header_of(tensors, whole)) + sum(tensor.nbytes for tensor in tensors.values())


def write(path: Path, tensors: Tensors, metadata: dict[str, str]) -> int:
    """Write the file beside its place and rename it. Returns its bytes. Raises OSError."""
    checksum, parts = 0, []
    for tensor in tensors.values():
        part = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(part, checksum)
        parts.append(part)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(header_of(tensors, {CHECKSUM: f"{checksum:08x}"} | metadata))
            for part in parts:
                file.write(part)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path.stat().st_size


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata. Raises ValueError where the file is damaged."""
    tensors = read_safetensors(path)
    with path.open("rb") as file:
        metadata = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    checksum = 0
    for tensor in tensors.values():
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), checksum)
    if metadata.pop(CHECKSUM, None) != f"{checksum:08x}":
        raise ValueError("its tensors are not those that were written")
    return tensors, metadata
