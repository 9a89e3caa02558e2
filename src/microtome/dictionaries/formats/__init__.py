"""Reading and writing the dictionaries of other libraries, without importing them."""

import importlib
from typing import Any

_PUBLIC = {
    "open_dictionary": "microtome.dictionaries.formats.opening",
    "save_dictionary": "microtome.dictionaries.formats.saving",
    "save_dictionary_learning": "microtome.dictionaries.formats.dictionary_learning",
    "save_saelens": "microtome.dictionaries.formats.saelens",
    "save_sparsify": "microtome.dictionaries.formats.sparsify",
}

__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'microtome.dictionaries.formats' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
