"""Finding out what wrote a dictionary, and opening it."""

from pathlib import Path

from microtome.core.errors import CannotLoad
from microtome.dictionaries.formats.places import place_of
from microtome.dictionaries.formats.sparsify import is_sparsify, open_sparsify
from microtome.dictionaries.stored import DictionaryFile


def open_dictionary(path: str | Path, layer: int | None = None) -> DictionaryFile:
    """Open a dictionary of any known format.

    ``path``: a folder or file of one dictionary, a folder with one sub folder a layer, either of them with
    ``{layer}`` in its name, or a Hugging Face name. Raises ``CannotLoad`` in one line.
    """
    text = str(path)
    if "{layer}" in text:
        if layer is None:
            raise CannotLoad(f"{text}: holds {{layer}}; say which layer")
        text = text.replace("{layer}", str(layer))
    folder = Path(text).expanduser()
    if not folder.exists():
        raise CannotLoad(f"{text}: no such dictionary; give its folder or file")
    if is_sparsify(folder):
        return open_sparsify(folder)
    if layer is not None:
        inside = [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and place_of(sub.name)[1] == layer]
        if len(inside) == 1:
            return open_dictionary(inside[0])
    raise CannotLoad(f"{text}: not a dictionary of a known format")
