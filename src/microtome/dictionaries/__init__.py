"""Dictionaries (sparse autoencoders): architectures, file formats, training, evaluation."""

import importlib
from typing import Any

# Public name -> module. Loaded on first use: configurations and `--help` must not wait for torch.
_PUBLIC = {
    "Dictionary": "microtome.dictionaries.dictionary",
    "DictionaryConfig": "microtome.dictionaries.config",
    "DictionaryFile": "microtome.dictionaries.stored",
    "DictionaryTraining": "microtome.dictionaries.train_config",
    "check_reconstruction": "microtome.dictionaries.check",
    "explained_variance": "microtome.dictionaries.check",
    "fit": "microtome.dictionaries.train",
    "fitting_site": "microtome.dictionaries.check",
    "new_dictionary": "microtome.dictionaries.architectures",
    "open_dictionary": "microtome.dictionaries.formats",
    "save_dictionary": "microtome.dictionaries.formats",
}

__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'microtome.dictionaries' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
