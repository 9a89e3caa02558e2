"""Texts of Hugging Face datasets, from the hub or from a folder, and which column holds them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from microtome.core.config_keys import nearest
from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.core.hub import hub_answers, need

# Names that stand for a configuration of a dataset on the hub.
KNOWN = {
    "wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
}


def hub_texts(name: str, text_field: str | None, split: str) -> Iterator[str]:
    """The texts of a dataset on the Hugging Face hub, in its order. Raises ``MicrotomeError``."""
    return _rows(open_hub(name, split), text_field, name)


def open_hub(name: str, split: str, streaming: bool = False) -> Any:
    """A dataset on the Hugging Face hub; ``streaming`` reads it as it goes. Raises ``MicrotomeError``."""
    datasets = need("datasets", name)
    repository, _, configuration = name.partition(":")
    known, default = KNOWN.get(repository, (repository, None))
    try:
        with _cache_only(datasets, not hub_answers()):
            how = {"streaming": True} if streaming else {}
            return datasets.load_dataset(known, configuration or default, split=split, **how)
    except Exception as error:
        raise _hub_error(name, split, error) from error


def column_from(found: Any, skip: int, field: str | None, name: str, tokens: bool = False) -> Iterator[Any]:
    """One column of a dataset or of a stream, from row ``skip`` on: texts, or with ``tokens`` lists of ids.

    Raises ``MicrotomeError`` when there is no such column.
    """
    features = getattr(found, "features", None)
    if features is not None:
        columns: Mapping[str, Any] = columns_of(features.arrow_schema)
    else:  # a stream may not know its columns before its first row
        columns = next(iter(found), {})
    if not columns:
        return iter(())
    if tokens:
        field = field if field in columns else "input_ids"
        if field not in columns:
            raise bad_value("column_name", field, f"no such column in {name}", f"it has {', '.join(columns)}")
    else:
        field = text_column(columns, field, name)
    found = found.select_columns([field])
    found = found.skip(skip) if skip else found
    return (row[field] if tokens else str(row[field] or "") for row in found)


def is_saved_dataset(path: Path) -> bool:
    """Whether the folder is one that ``datasets.save_to_disk`` wrote."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def saved_dataset_texts(path: Path, text_field: str | None, split: str) -> tuple[Iterator[str], bool]:
    """The texts of a folder that ``datasets.save_to_disk`` wrote, and whether it has splits of its own.

    Without them ``split`` is not looked at. Raises ``MicrotomeError``.
    """
    found, has_splits = open_saved(path, split)
    return _rows(found, text_field, str(path)), has_splits


def open_saved(path: Path, split: str) -> tuple[Any, bool]:
    """What ``datasets.save_to_disk`` wrote, and whether it had splits. Raises ``MicrotomeError``."""
    datasets = need("datasets", str(path))
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:
        raise CannotLoad(f"{path}: not a saved dataset ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(found, Mapping):
        return found, False
    if split not in found:
        raise bad_value("split", split, f"not in {path}", f"choose {', '.join(found)}")
    return found[split], True


def text_column(row: Mapping[str, Any], text_field: str | None, source: str) -> str:
    """The column with the text: the named one, ``text``, ``story``, or the only one that holds text.

    Raises ``MicrotomeError`` when that is none or several.
    """
    if text_field is not None:
        if text_field in row:
            return text_field
        near = nearest(text_field, list(row))
        mend = f"did you mean {near}?" if near else f"it has {', '.join(row)}"
        raise bad_value("text_field", text_field, f"no such column in {source}", mend)
    for usual in ("text", "story"):
        if usual in row:
            return usual
    columns = [name for name, value in row.items() if isinstance(value, str)]
    if len(columns) == 1:
        return columns[0]
    raise MicrotomeError(
        f"text_field: {source} has no column called text; name one with --text_field ({', '.join(row)})"
    )


def columns_of(schema: Any) -> dict[str, str | None]:
    """The columns of an Arrow schema: an empty text for those that hold text, else None."""
    return {name: "" if "string" in str(schema.field(name).type) else None for name in schema.names}


def _rows(found: Any, text_field: str | None, name: str) -> Iterator[str]:
    field = text_column(columns_of(found.features.arrow_schema), text_field, name)
    return (str(row[field] or "") for row in found.select_columns([field]))


@contextmanager
def _cache_only(datasets: Any, wanted: bool) -> Iterator[None]:
    """Offline mode for the length of the block; the libraries read it from their modules."""
    holders = [(datasets.config, "HF_HUB_OFFLINE"), (need("huggingface_hub.constants", ""), "HF_HUB_OFFLINE")]
    before = [getattr(holder, name, False) for holder, name in holders]
    for (holder, name), was in zip(holders, before, strict=True):
        setattr(holder, name, was or wanted)
    try:
        yield
    finally:
        for (holder, name), was in zip(holders, before, strict=True):
            setattr(holder, name, was)


def _hub_error(name: str, split: str, error: Exception) -> MicrotomeError:
    text = " ".join(str(error).split())
    if "split" in text and "Unknown" in text:
        return bad_value("split", split, text[:200], "choose one of those")
    if not hub_answers():
        return CannotLoad(
            f"{name}: neither a local file nor in the cache, and the Hugging Face hub cannot be reached;"
            " check the name and the network, or give builtin or a local file"
        )
    return CannotLoad(
        f"{name}: not loaded from the Hugging Face hub ({type(error).__name__}: {text[:160]}); check the"
        " name, or give builtin or a local file"
    )
