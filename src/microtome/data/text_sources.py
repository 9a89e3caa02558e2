"""Where texts come from: Python's own documentation, local files, and datasets; and what is held out."""

import csv
import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.core.hub import need
from microtome.data.hub_datasets import (
    column_from,
    columns_of,
    hub_texts,
    is_saved_dataset,
    open_hub,
    open_saved,
    saved_dataset_texts,
    text_column,
)

T = TypeVar("T")
# A text, and the pieces that a reader of it takes one at a time: paragraphs of prose, else the text itself.
Document = tuple[str, list[str]]

HELD_OUT_EVERY = 10
MOST_CHARACTERS = 5000
SPLITS = ("train", "test", "all")
PROSE = (".txt", ".md")
SUFFIXES = (*PROSE, ".jsonl", ".json", ".csv", ".parquet")


def texts_in(source: str, text_field: str | None, split: str) -> Iterator[str]:
    """The texts of a source, one after the other; prose is cut into paragraphs."""
    for _, pieces in _documents(source, text_field, split):
        yield from pieces


def documents(source: str = "builtin", *, text_field: str | None = None, split: str = "all") -> list[str]:
    """Texts to train on: the topics of Python's documentation, or what a file, folder or dataset holds.

    A long .txt file comes in parts of some thousand characters, of which every tenth is held out (see
    ``read_texts`` for ``split``). Raises ``MicrotomeError``.
    """
    return [text for text, _ in _documents(source, text_field, split)]


def open_documents(
    source: str, text_field: str | None, split: str, streaming: bool = False, is_tokenized: bool = False
) -> Callable[[int], Iterator[Any]]:
    """A function that reads the documents of a source from number n on, as often as it is called.

    Texts that are not blank, or lists of token ids where ``is_tokenized`` (datasets only). ``streaming`` asks
    the Hugging Face hub for what is needed as it is needed; local sources are always read as it goes. Raises
    ``MicrotomeError``, some of it only when the reading gets there.
    """
    path = Path(source).expanduser()
    at_hand = source == "builtin" or (bool(source.strip()) and path.exists())
    if at_hand and path.is_dir() and is_saved_dataset(path):
        found, has_splits = open_saved(path, split)

        def saved(n: int) -> Iterator[Any]:
            if has_splits:
                return column_from(found, n, text_field, source, is_tokenized)
            return islice(_held_out(column_from(found, 0, text_field, source, is_tokenized), split), n, None)

        return saved
    if is_tokenized and at_hand:
        raise bad_value("is_tokenized", True, f"{source} holds text", "give a dataset, or leave it out")
    if at_hand or not (streaming or is_tokenized) or _is_missing_file(source):
        return lambda n: islice(
            (text for text, _ in _documents(source, text_field, split) if text.strip()), n, None
        )
    stream = open_hub(source, split, streaming)
    return lambda n: column_from(stream, n, text_field, source, is_tokenized)


def builtin_topics() -> dict[str, str]:
    """The topics of ``help()``, which every Python carries: about 80 texts, 460 kB of English and code."""
    topics = importlib.import_module("pydoc_data.topics").topics
    return {name: topics[name] for name in sorted(topics)}


def paragraphs(text: str) -> list[str]:
    """The parts of a text between empty lines; the lines where there is no empty one."""
    parts = re.split(r"\n[ \t\r]*\n", text.strip())
    if len(parts) == 1:
        parts = text.splitlines()
    return [part.strip("\r\n") for part in parts if part.strip()]


def parts_of(text: str) -> list[list[str]]:
    """The paragraphs of a long text in at least about twenty parts of at most 5,000 characters.

    (A paragraph longer than that stays whole.) So that a tenth of the text can be held out.
    """
    length = min(MOST_CHARACTERS, len(text) // 20)
    parts: list[list[str]] = []
    held = 0
    for piece in paragraphs(text):
        if not parts or held + len(piece) > length:
            parts.append([])
            held = 0
        parts[-1].append(piece)
        held += len(piece)
    return parts


def _documents(source: str, text_field: str | None, split: str) -> Iterator[Document]:
    if source == "builtin":
        return _held_out(((text, paragraphs(text)) for text in builtin_topics().values()), split)
    path = Path(source).expanduser()
    if not source.strip() or not path.exists():
        if _is_missing_file(source):
            raise CannotLoad(
                f"{source or 'dataset'}: no such file or folder; give builtin, a {', '.join(SUFFIXES)} file,"
                " a folder, or a dataset name on the Hugging Face hub"
            )
        return _whole(hub_texts(source, text_field, split))
    if is_saved_dataset(path):
        texts, has_splits = saved_dataset_texts(path, text_field, split)
        return _whole(texts) if has_splits else _held_out(_whole(texts), split)
    files = _files_in(path) if path.is_dir() else [path]
    return _held_out((found for file in files for found in _file(file, text_field)), split)


def _is_missing_file(source: str) -> bool:
    """Whether what is not there was meant as a file, and not as a name on the hub."""
    return Path(source).suffix in SUFFIXES or source.startswith((".", "/", "~")) or not source.strip()


def _whole(texts: Iterable[str]) -> Iterator[Document]:
    return ((text, [text]) for text in texts)


def _held_out(texts: Iterable[T], split: str) -> Iterator[T]:
    if split not in SPLITS:
        raise bad_value("split", split, "this source has no such split", f"choose {', '.join(SPLITS)}")
    for position, text in enumerate(texts):
        held_out = position % HELD_OUT_EVERY == HELD_OUT_EVERY // 2
        if split == "all" or held_out == (split == "test"):
            yield text


def _files_in(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise CannotLoad(f"{folder}: holds no {', '.join(SUFFIXES)} file; give a folder with texts in it")
    return files


def _file(path: Path, text_field: str | None) -> Iterator[Document]:
    if path.suffix in PROSE:
        return (("\n\n".join(part), part) for part in parts_of(_read(path)))
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise CannotLoad(f"{path}: not a file of texts; give {', '.join(SUFFIXES)}")
    return _whole(readers[path.suffix](path, text_field))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CannotLoad(f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from None


def _jsonl(path: Path, text_field: str | None) -> Iterator[str]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise CannotLoad(f"{path}: line {number} is not JSON ({error}); mend that line") from None
            yield _text_of(row, text_field, path)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise CannotLoad(f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from None


def _json(path: Path, text_field: str | None) -> Iterator[str]:
    try:
        rows = json.loads(_read(path))
    except ValueError as error:
        raise CannotLoad(f"{path}: not JSON ({error}); one object a line goes into a .jsonl file") from None
    if not isinstance(rows, list):
        raise CannotLoad(f"{path}: holds no list; write a list of texts or of objects with a text")
    for row in rows:
        yield _text_of(row, text_field, path)


def _csv(path: Path, text_field: str | None) -> Iterator[str]:
    csv.field_size_limit(2**31 - 1)
    try:
        for row in csv.DictReader(_lines(path)):
            yield _text_of(row, text_field, path)
    except csv.Error as error:
        raise CannotLoad(f"{path}: not CSV ({error}); mend the file") from None


def _parquet(path: Path, text_field: str | None) -> Iterator[str]:
    parquet = need("pyarrow.parquet", str(path))
    try:
        file = parquet.ParquetFile(path)
        field = text_column(columns_of(file.schema_arrow), text_field, str(path))
        for batch in file.iter_batches(columns=[field]):
            yield from (str(text or "") for text in batch.column(0).to_pylist())
    except MicrotomeError:
        raise
    except Exception as error:
        raise CannotLoad(f"{path}: truncated or not a parquet file ({error})") from None


def _text_of(row: Any, text_field: str | None, path: Path) -> str:
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        raise CannotLoad(f"{path}: holds a {type(row).__name__}, not a text or an object with one")
    return str(row[text_column(row, text_field, str(path))] or "")
