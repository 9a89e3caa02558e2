"""Where texts come from: Python's own documentation, local files, and datasets on the Hugging Face hub."""

import csv
import importlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from microtome.core.config_keys import nearest
from microtome.core.errors import CannotLoad, MicrotomeError, bad_value

HELD_OUT_EVERY = 10
SPLITS = ("train", "test", "all")
SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".csv", ".parquet")
# Names that stand for a configuration of a dataset on the hub.
KNOWN_DATASETS = {
    "wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
}


def texts_in(source: str, text_field: str | None, split: str) -> Iterator[str]:
    """The texts of a source, one after the other; documents are cut into paragraphs."""
    path = Path(source).expanduser()
    if source != "builtin" and not path.exists():
        if path.suffix in SUFFIXES or source.startswith((".", "/", "~")) or not source:
            raise _no_such_file(source)
        return hub_texts(source, text_field, split)
    if path.is_dir() and (path / "dataset_dict.json").is_file() | (path / "state.json").is_file():
        return _saved_dataset(path, text_field, split)
    if source == "builtin" or path.suffix in (".txt", ".md"):
        return (part for text in documents(source, split=split) for part in paragraphs(text))
    return _held_out(_file_or_folder(path, text_field), split)


def documents(source: str = "builtin", *, text_field: str | None = None, split: str = "all") -> list[str]:
    """Whole texts for training: the topics of Python's documentation, or what a file or folder holds.

    A single .txt file is one long text; its paragraphs then count for ``split``. Raises ``MicrotomeError``.
    """
    if source == "builtin":
        return list(_held_out(builtin_topics().values(), split))
    path = Path(source).expanduser()
    if path.is_file() and path.suffix in (".txt", ".md"):
        return list(_held_out(paragraphs(_read(path)), split))
    return list(texts_in(source, text_field, split))


def builtin_topics() -> dict[str, str]:
    """The topics of ``help()``, which every Python carries: about 80 texts, 460 kB of English and code."""
    topics = importlib.import_module("pydoc_data.topics").topics
    return {name: topics[name] for name in sorted(topics)}


def paragraphs(text: str) -> list[str]:
    """The parts of a text between empty lines, without the line ends around them."""
    return [part.strip("\r\n") for part in re.split(r"\n[ \t\r]*\n", text) if part.strip()]


def _held_out(texts: Iterable[str], split: str) -> Iterator[str]:
    if split not in SPLITS:
        raise bad_value("split", split, "this source has no such split", f"choose {', '.join(SPLITS)}")
    for position, text in enumerate(texts):
        held_out = position % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        if split == "all" or held_out == (split == "test"):
            yield text


# -- local files -------------------------------------------------------------------------------------------


def _file_or_folder(path: Path, text_field: str | None) -> Iterator[str]:
    if not path.is_dir():
        yield from _file(path, text_field)
        return
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise CannotLoad(f"{path}: holds no {', '.join(SUFFIXES)} file; give a folder with texts in it")
    for file in files:
        yield from _file(file, text_field)


def _file(path: Path, text_field: str | None) -> Iterator[str]:
    readers: dict[str, Any] = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if path.suffix in (".txt", ".md"):
        return iter(paragraphs(_read(path)))
    if path.suffix not in readers:
        raise CannotLoad(f"{path}: not a file of texts; give {', '.join(SUFFIXES)}")
    return readers[path.suffix](path, text_field)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CannotLoad(f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from None


def _jsonl(path: Path, text_field: str | None) -> Iterator[str]:
    for number, line in enumerate(_read(path).splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise CannotLoad(f"{path}: line {number} is not JSON ({error}); mend that line") from None
            yield _text_of(row, text_field, path)


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
        for row in csv.DictReader(_read(path).splitlines(keepends=True)):
            yield _text_of(row, text_field, path)
    except csv.Error as error:
        raise CannotLoad(f"{path}: not CSV ({error}); mend the file") from None


def _parquet(path: Path, text_field: str | None) -> Iterator[str]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise MicrotomeError(f"{path}: needs pyarrow; pip install 'microtome[llm]'") from None
    try:
        file = parquet.ParquetFile(path)
        row = {name: "" for name, kind in _columns(file.schema_arrow) if kind}
        field = text_column(row, text_field, str(path))
        for batch in file.iter_batches(columns=[field]):
            yield from (str(text or "") for text in batch.column(0).to_pylist())
    except MicrotomeError:
        raise
    except Exception as error:
        raise CannotLoad(f"{path}: truncated or not a parquet file ({error})") from None


def _columns(schema: Any) -> list[tuple[str, bool]]:
    return [(name, "string" in str(schema.field(name).type)) for name in schema.names]


def _text_of(row: Any, text_field: str | None, path: Path) -> str:
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        raise CannotLoad(f"{path}: holds a {type(row).__name__}, not a text or an object with one")
    return str(row[text_column(row, text_field, str(path))] or "")


def text_column(row: dict[str, Any], text_field: str | None, source: str) -> str:
    """The column with the text: the named one, ``text``, or the only one that holds text."""
    if text_field is not None:
        if text_field in row:
            return text_field
        near = nearest(text_field, list(row))
        mend = f"did you mean {near}?" if near else f"it has {', '.join(row)}"
        raise bad_value("text_field", text_field, f"no such column in {source}", mend)
    if "text" in row:
        return "text"
    columns = [name for name, value in row.items() if isinstance(value, str)]
    if len(columns) == 1:
        return columns[0]
    raise MicrotomeError(
        f"text_field: {source} has no column called text; name one with --text_field ({', '.join(row)})"
    )


def _no_such_file(source: str) -> CannotLoad:
    return CannotLoad(
        f"{source or 'dataset'}: no such file or folder; give builtin, a {', '.join(SUFFIXES)} file,"
        " a folder, or a dataset name on the Hugging Face hub"
    )


# -- datasets ----------------------------------------------------------------------------------------------


def hub_texts(name: str, text_field: str | None, split: str) -> Iterator[str]:
    """The texts of a dataset on the Hugging Face hub, in its order. Raises ``MicrotomeError``."""
    datasets = _datasets(name)
    repository, _, configuration = name.partition(":")
    known, default = KNOWN_DATASETS.get(repository, (repository, None))
    try:
        found = datasets.load_dataset(known, configuration or default, split=split)
    except Exception as error:
        raise _hub_error(name, split, error) from error
    return _rows(found, text_field, name)


def _saved_dataset(path: Path, text_field: str | None, split: str) -> Iterator[str]:
    datasets = _datasets(str(path))
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:
        raise CannotLoad(f"{path}: not a saved dataset ({' '.join(str(error).split())[:200]})") from None
    if hasattr(found, "column_names") and isinstance(found.column_names, dict):
        if split not in found:
            raise bad_value("split", split, f"not in {path}", f"choose {', '.join(found)}")
        return _rows(found[split], text_field, str(path))
    return _held_out(_rows(found, text_field, str(path)), split)


def _rows(found: Any, text_field: str | None, name: str) -> Iterator[str]:
    row = {column: "" if kind else None for column, kind in _columns(found.features.arrow_schema)}
    field = text_column(row, text_field, name)
    return (str(row[field] or "") for row in found.select_columns([field]))


def _datasets(name: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise MicrotomeError(
            f"{name}: datasets on the Hugging Face hub need datasets; pip install 'microtome[llm]'"
        ) from None


def _hub_error(name: str, split: str, error: Exception) -> MicrotomeError:
    text = " ".join(str(error).split())
    if "split" in text and "Unknown" in text:
        return bad_value("split", split, text[:200], "choose one of those")
    return CannotLoad(
        f"{name}: no such file, and not loaded from the Hugging Face hub ({type(error).__name__}:"
        f" {text[:160]}); check the name and the network, or give builtin or a local file"
    )
