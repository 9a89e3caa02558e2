"""Writing a dictionary in the format that is asked for."""

from pathlib import Path

from microtome.core.errors import bad_value
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.formats.dictionary_learning import save_dictionary_learning
from microtome.dictionaries.formats.saelens import save_saelens
from microtome.dictionaries.formats.sparsify import save_sparsify

SAVERS = {
    "sparsify": save_sparsify,
    "saelens": save_saelens,
    "dictionary_learning": save_dictionary_learning,
}


def save_dictionary(dictionary: Dictionary, folder: str | Path, format: str | None = None) -> Path:
    """Write ``folder`` in a format; None: sparsify where it can hold the dictionary, else SAELens.

    Raises ``MicrotomeError`` where the format has no place for it.
    """
    if format is None:
        format = default_format(dictionary.config)
    if format not in SAVERS:
        raise bad_value("format", format, "unknown format", f"choose {', '.join(SAVERS)}")
    return SAVERS[format](dictionary, folder)


def default_format(config: DictionaryConfig) -> str:
    """sparsify where it can hold the dictionary, else SAELens."""
    counted = config.architecture in ("topk", "groupmax", "batch_topk", "matryoshka")
    return "sparsify" if counted and config.normalisation == "none" else "saelens"
