"""Texts from every source, what is held out, and tokens in batches."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.data import hub_datasets
from microtome.data.text import read_texts, token_batches, tokenize
from microtome.data.text_sources import builtin_topics, documents, paragraphs, parts_of

LONG = "A sentence that is longer than the fifty characters a text must have, number {}."
TEXTS = [LONG.format(number) for number in range(30)]


class Words:
    """A tokenizer of whole words: id = length of the word; an empty text has no token."""

    pad_token_id = 99

    def __call__(self, texts, *, add_special_tokens, truncation, max_length, return_attention_mask):
        rows = [[len(word) for word in text.split()] for text in texts]
        rows = [[0, *row] if add_special_tokens else row for row in rows]
        return {"input_ids": [row[:max_length] for row in rows]}


# -- sources


def test_builtin_topics_every_tenth_held_out():
    whole, train, test = (read_texts(split=split) for split in ("all", "train", "test"))
    assert len(train) > 1500 and len(test) > 80
    assert sorted(train + test) == sorted(whole)
    topics = list(builtin_topics().values())
    assert documents(split="test") == topics[5::10]
    held_out = {part for topic in topics[5::10] for part in paragraphs(topic)}
    assert set(test) <= held_out
    assert all(len(text.strip()) > 50 for text in whole)
    assert read_texts(limit=7) == train[:7]
    assert len(read_texts(min_chars=500)) < len(train)


def write_csv(path):
    path.write_text(
        "id,text\n" + "".join(f'{i},"{text}, ""quoted""\nline"\n' for i, text in enumerate(TEXTS))
    )


def write_parquet(path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"id": range(30), "text": TEXTS}).to_parquet(path)


WRITERS = {
    "a.txt": lambda path: path.write_text("\n\n".join(TEXTS)),
    "a.md": lambda path: path.write_text("\r\n \r\n".join(TEXTS)),
    "lines.txt": lambda path: path.write_text("\n".join(TEXTS)),
    "a.jsonl": lambda path: path.write_text("".join(json.dumps({"text": t}) + "\n\n" for t in TEXTS)),
    "plain.jsonl": lambda path: path.write_text("\n".join(json.dumps(t) for t in TEXTS)),
    "a.json": lambda path: path.write_text(json.dumps([{"text": t, "other": "x"} for t in TEXTS])),
    "a.csv": write_csv,
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_local_files(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = read_texts(str(tmp_path / name), split="all")
    expected = [f'{text}, "quoted"\nline' for text in TEXTS] if name == "a.csv" else TEXTS
    assert found == expected
    train, test = (read_texts(str(tmp_path / name), split=split) for split in ("train", "test"))
    assert sorted(train + test) == sorted(expected) and 1 <= len(test) <= 6


def test_a_folder_is_all_of_its_files(tmp_path):
    (tmp_path / "inner").mkdir()
    WRITERS["a.jsonl"](tmp_path / "b.jsonl")
    (tmp_path / "inner" / "c.txt").write_text("\n\n".join(LONG.format(f"c{i}") for i in range(5)))
    (tmp_path / "ignored.py").write_text("x" * 100)
    found = read_texts(str(tmp_path), split="all")
    assert found == TEXTS + [LONG.format(f"c{i}") for i in range(5)]


def test_columns(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"body": TEXTS[0], "n": 3}))
    assert read_texts(str(path)) == [TEXTS[0]]  # the only column with text
    path.write_text(json.dumps({"body": TEXTS[0], "title": TEXTS[1]}))
    with pytest.raises(MicrotomeError, match=r"name one with --text_field \(body, title\)"):
        read_texts(str(path))
    assert read_texts(str(path), text_field="title") == [TEXTS[1]]
    with pytest.raises(MicrotomeError, match=r"text_field='titel': no such column .* did you mean title"):
        read_texts(str(path), text_field="titel")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", b"", "no text of more than 50 characters"),
        ("a.txt", b"too short", "no text of more than 50 characters"),
        ("a.txt", b"\xff\xfe\xfa" * 40, "cannot be read as UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text"', "line 2 is not JSON"),
        ("a.jsonl", b"[1]", "holds a list, not a text"),
        ("a.json", b"{}", "holds no list"),
        ("a.json", b"{", "not JSON"),
        ("a.parquet", b"PAR1", "truncated or not a parquet file"),
        ("a.pdf", b"x" * 100, r"not a file of texts; give \.txt"),
    ],
)
def test_bad_files_are_one_line(tmp_path, name, content, problem):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MicrotomeError, match=problem) as told:
        read_texts(str(path))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("source", "problem"),
    [("none.txt", "no such file or folder"), ("./none", "no such file"), ("", "dataset: no such file")],
)
def test_missing_sources(source, problem):
    with pytest.raises(CannotLoad, match=problem):
        read_texts(source)


def test_bad_arguments(tmp_path):
    with pytest.raises(MicrotomeError, match=r"split='tset': .* choose train, test, all"):
        read_texts(split="tset")
    with pytest.raises(MicrotomeError, match="limit=0"):
        read_texts(limit=0)
    with pytest.raises(CannotLoad, match=r"holds no \.txt"):
        read_texts(str(tmp_path))


# -- datasets


def test_a_saved_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    both = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_dict({"text": TEXTS[:20]}),
            "validation": datasets.Dataset.from_dict({"text": TEXTS[20:]}),
        }
    )
    both.save_to_disk(tmp_path / "both")
    assert read_texts(str(tmp_path / "both"), split="validation") == TEXTS[20:]
    with pytest.raises(MicrotomeError, match=r"split='test': not in .* choose train, validation"):
        read_texts(str(tmp_path / "both"), split="test")
    both["train"].save_to_disk(tmp_path / "one")
    assert read_texts(str(tmp_path / "one"), split="all") == TEXTS[:20]
    assert len(read_texts(str(tmp_path / "one"), split="train")) == 18


def fake_datasets(monkeypatch, load):
    module = types.ModuleType("datasets")
    module.config = types.SimpleNamespace(HF_HUB_OFFLINE=False)  # pyright: ignore
    module.load_dataset = load  # pyright: ignore
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


class Rows(list):
    def __init__(self, rows, columns):
        super().__init__(rows)
        schema = types.SimpleNamespace(
            names=columns,
            field=lambda name: types.SimpleNamespace(type="string" if name == "text" else "int64"),
        )
        self.features = types.SimpleNamespace(arrow_schema=schema)

    def select_columns(self, columns):
        return [{name: row[name] for name in columns} for row in self]


def test_names_on_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr(hub_datasets, "hub_answers", lambda: True)

    def load(name, configuration, split):
        asked.append((name, configuration, split))
        return Rows([{"text": text, "id": 1} for text in TEXTS], ["id", "text"])

    fake_datasets(monkeypatch, load)
    assert read_texts("wikitext", limit=3) == TEXTS[:3]
    read_texts("owner/name:part", split="validation")
    read_texts("owner/name")
    assert asked == [
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "train"),
        ("owner/name", "part", "validation"),
        ("owner/name", None, "train"),
    ]


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    module = None

    def load(name, configuration, split):
        assert module.config.HF_HUB_OFFLINE  # so that its clients do not try for half a minute
        raise ConnectionError("no\nnetwork")

    module = fake_datasets(monkeypatch, load)
    monkeypatch.setattr(hub_datasets, "hub_answers", lambda: False)
    with pytest.raises(
        CannotLoad, match=r"wikitext: .* the Hugging Face hub cannot be reached; check"
    ) as told:
        read_texts("wikitext")
    assert "\n" not in str(told.value)
    assert not module.config.HF_HUB_OFFLINE


def test_without_the_extra_the_pip_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MicrotomeError, match=r"pip install 'microtome\[llm\]'"):
        read_texts("wikitext")


# -- cutting


@given(st.lists(st.text("ab \n", min_size=1, max_size=80).filter(str.strip), max_size=60))
@settings(max_examples=60, deadline=None)
def test_parts_hold_every_paragraph_once_in_order(pieces):
    text = "\n\n".join(pieces)
    parts = parts_of(text)
    assert [piece for part in parts for piece in part] == paragraphs(text)
    assert all(parts)


def test_a_long_text_comes_in_parts_of_which_a_tenth_can_be_held_out(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(LONG.format(i) for i in range(2000)))
    parts = documents(str(path))
    assert 20 <= len(parts) <= 60 and max(map(len, parts)) <= 5200
    assert len(documents(str(path), split="test")) == len(parts[5::10])
    assert read_texts(str(path), split="test")[0] == parts[5].split("\n\n")[0]


# -- batches


def test_batches_are_padded_to_their_longest_and_sorted():
    texts = ["a", "bb cc dd", "", "e ff", "g hh iii jjjj kkkkk"]
    batches = list(token_batches(texts, Words(), max_length=4, batch_size=2, add_special_tokens=False))
    assert [batch.index for batch in batches] == [[4, 1], [3, 0]]  # the empty text is left out
    assert batches[0].input_ids.tolist() == [[1, 2, 3, 4], [2, 2, 2, 99]]
    assert batches[0].attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batches[1].input_ids.tolist() == [[1, 2], [1, 99]]
    assert all(batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64 for batch in batches)
    in_order = token_batches(texts, Words(), max_length=4, batch_size=3, sort=False)
    assert [batch.index for batch in in_order] == [[0, 1, 2], [3, 4]]


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=40).filter(any),
    st.integers(1, 9),
    st.integers(1, 10),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_every_token_of_every_text_comes_once(lengths, batch_size, max_length, sort):
    texts = [" ".join("x" * (1 + (i + j) % 5) for j in range(n)) for i, n in enumerate(lengths)]
    rows = tokenize(texts, Words(), max_length, add_special_tokens=False)
    seen = {}
    for batch in token_batches(
        texts, Words(), max_length=max_length, batch_size=batch_size, sort=sort, add_special_tokens=False
    ):
        assert len(batch.index) <= batch_size
        assert batch.attention_mask.sum(1).max() == batch.input_ids.shape[1]
        for place, index in enumerate(batch.index):
            seen[index] = batch.input_ids[place][batch.attention_mask[place].bool()].tolist()
    assert seen == {i: row.tolist() for i, row in enumerate(rows) if len(row)}
    assert sum(map(len, rows)) == sum(min(n, max_length) for n in lengths)


def test_sorting_wastes_less_padding():
    texts = ["x " * int(n) for n in np.random.default_rng(0).integers(1, 60, 200)]

    def waste(sort):
        batches = token_batches(texts, Words(), max_length=64, batch_size=8, sort=sort)
        return sum(int((batch.attention_mask == 0).sum()) for batch in batches)

    assert waste(True) < 0.1 * waste(False)


def test_texts_without_a_token_are_refused():
    with pytest.raises(MicrotomeError, match="hold no token"):
        next(token_batches(["", " "], Words(), max_length=4, batch_size=2, add_special_tokens=False))
    with pytest.raises(MicrotomeError, match="max_length=0"):
        next(token_batches(["a"], Words(), max_length=0, batch_size=2))
