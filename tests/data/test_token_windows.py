"""Windows of tokens: what is in them, what is held out, streams that go on where they stopped, bad text."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.data.loading import data_from_spec, held_out_from_spec
from microtome.data.token_windows import TextChoice, TokenWindows

LENGTH = 7


class Letters:
    """A tokenizer of ASCII letters; token 0 ends a text."""

    vocab_size, eos_token_id, name_or_path = 128, 0, "letters"

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def document(n: int) -> str:
    return f"text number {n}, with {'more ' * (n % 4)}words"


def write_texts(folder: Path, n: int = 60) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": document(i)}) + "\n" for i in range(n)))
    return path


def row_of(numbers: list[int]) -> list[int]:
    """The slow way: every document's letters, and the end of the text after each."""
    return [token for n in numbers for token in [*map(ord, document(n)), 0]]


def windows(path: Path, **changes: Any) -> TokenWindows:
    return TokenWindows(TextChoice(str(path), LENGTH, **changes), Letters(), vocab_size=128)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TRAIN = [n for n in range(60) if n % 10 != 5]


def test_windows_are_stretches_of_the_text_and_the_held_out_text_is_another(tmp_path):
    path = write_texts(tmp_path)
    for split, numbers in (("train", TRAIN), ("test", list(range(5, 60, 10)))):
        row = row_of(numbers)
        places = {tuple(row[i : i + LENGTH]) for i in range(len(row) - LENGTH + 1)}
        data = windows(path, split=split)
        batch = data.batch(400, draws(), n_instances=2)
        assert batch.shape == (2, 400, LENGTH) and batch.dtype == torch.int64
        assert torch.equal(batch[0], batch[1])
        assert {tuple(window) for window in batch[0].tolist()} <= places
        assert data.n_tokens == len(row)
    first, last = row_of(TRAIN)[0], row_of(TRAIN)[-1]
    some = windows(path).batch(20_000, draws())[0]
    assert (some[:, 0] == first).any() and (some[:, -1] == last).any()


def test_a_stream_gives_every_window_once_a_pass(tmp_path):
    row = row_of(TRAIN)
    whole = len(row) // LENGTH
    data = windows(write_texts(tmp_path), streaming=True, buffer_size=9)
    seen = data.batch(whole - 9, draws())[0].tolist()
    assert data.stream is not None
    seen += data.stream.buffer.tolist()
    assert sorted(seen) == sorted(row[i * LENGTH : (i + 1) * LENGTH] for i in range(whole))
    assert seen[: whole - 9] != [row[i * LENGTH : (i + 1) * LENGTH] for i in range(whole - 9)]  # shuffled


@pytest.mark.parametrize("before", [0, 3, 40])  # in the first pass, and beyond it
def test_a_stream_goes_on_where_it_was(tmp_path, before):
    path = write_texts(tmp_path)
    make = functools.partial(windows, path, streaming=True, buffer_size=9)
    data, drawing = make(), draws()
    for _ in range(before):
        data.batch(8, drawing)
    state, random = data.state_tensors(), drawing.get_state()
    wanted = [data.batch(8, drawing) for _ in range(30)]
    again = make()
    again.load_state_tensors(state)
    drawing.set_state(random)
    assert all(torch.equal(batch, again.batch(8, drawing)) for batch in wanted)


def test_a_saved_dataset_with_its_own_splits_and_token_ids(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {
        split: datasets.Dataset.from_dict({"story": list(map(document, n)), "author": ["a"] * len(n)})
        for split, n in (("train", [1, 2, 3]), ("validation", [7, 8]))
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "stories"))
    for streaming in (False, True):
        data = windows(
            tmp_path / "stories", split="validation", streaming=streaming, buffer_size=3, text_field="story"
        )
        text = set(row_of([7, 8]))
        assert set(data.batch(50, draws()).flatten().tolist()) <= text
    ids = datasets.Dataset.from_dict({"input_ids": [[5, 6, 7, 8, 9], [10, 11, 12, 13]]})
    datasets.DatasetDict({"train": ids}).save_to_disk(str(tmp_path / "ids"))
    data = windows(tmp_path / "ids", is_tokenized=True)
    assert data.row is not None and data.row.tolist() == list(range(5, 14))
    with pytest.raises(MicrotomeError, match=r"split='test'.* choose train"):
        windows(tmp_path / "ids", is_tokenized=True, split="test")


def test_a_dataset_by_name_is_streamed_and_skipped_to(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    path = write_texts(tmp_path)
    load, skipped = datasets.load_dataset, []

    def from_here(name: str, configuration: str | None, *, split: str, streaming: bool = False) -> Any:
        assert (name, configuration, split) == ("somebody/stories", "small", "train")
        return load("json", data_files=str(path), split=split, streaming=streaming, cache_dir=str(tmp_path))

    def seen(self: Any, n: int) -> Any:
        skipped.append(n)
        return skip(self, n)

    skip = datasets.IterableDataset.skip
    monkeypatch.setattr(datasets.IterableDataset, "skip", seen)
    monkeypatch.setattr(datasets, "load_dataset", from_here)
    row = row_of(list(range(60)))
    data = TokenWindows(TextChoice("somebody/stories:small", LENGTH), Letters(), vocab_size=128)
    assert data.row is not None and data.row.tolist() == row
    streamed = TextChoice("somebody/stories:small", LENGTH, streaming=True, buffer_size=4)
    data = TokenWindows(streamed, Letters(), vocab_size=128)
    drawing = draws()
    data.batch(20, drawing)
    state, random = data.state_tensors(), drawing.get_state()
    wanted = data.batch(20, drawing)
    again = TokenWindows(streamed, Letters(), vocab_size=128)
    again.load_state_tensors(state)
    assert torch.equal(wanted, again.batch(20, drawing.set_state(random)))
    assert skipped == [int(state["read"])] and skipped[0] > 0


def test_what_a_run_saves_makes_the_same_windows(tmp_path, monkeypatch):
    path = write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    data = TokenWindows(TextChoice("texts.jsonl", LENGTH), Letters(), vocab_size=128)
    spec = json.loads(json.dumps(data.spec()))
    monkeypatch.chdir("/")
    assert torch.equal(data_from_spec(spec, "cpu", Letters()).batch(9, draws()), data.batch(9, draws()))
    held_out = held_out_from_spec(spec, "cpu", Letters())
    assert torch.equal(held_out.batch(9, draws()), windows(path, split="test").batch(9, draws()))
    with pytest.raises(CannotLoad, match="needs a tokenizer"):
        data_from_spec(spec)
    write_texts(tmp_path, n=61)
    with pytest.raises(CannotLoad, match="has changed since the run began"):
        data_from_spec(spec, "cpu", Letters())


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("text", "told"),
    [("", "no text in split 'train'"), ("  \n\n \n", "no text in split"), ("ab", "has only 3 tokens")],
)
def test_text_that_is_too_short(tmp_path, text, told, streaming):
    path = tmp_path / "text.txt"
    path.write_text(text)
    with pytest.raises(MicrotomeError, match=told) as error:
        windows(path, streaming=streaming)
    assert "\n" not in str(error.value)


def test_tokens_that_the_model_does_not_know(tmp_path):
    path = write_texts(tmp_path)
    choice = TextChoice(str(path), LENGTH)
    with pytest.raises(MicrotomeError, match=r"tokenizer_name='letters'.* 128 tokens, .* only 100 rows"):
        TokenWindows(choice, Letters(), vocab_size=100)
    small = Letters()
    small.vocab_size = 90  # says so, but gives larger ids
    with pytest.raises(MicrotomeError, match=r"holds token 1\d\d, the model knows 0 to 99"):
        TokenWindows(choice, small, vocab_size=100)
    with pytest.raises(MicrotomeError, match=r"is_tokenized=True.* holds text"):
        windows(path, is_tokenized=True)
    with pytest.raises(MicrotomeError, match="context_length=0"):
        TextChoice(str(path), 0)
