"""Finding out what wrote a dictionary, and opening it."""

from pathlib import Path, PurePosixPath

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.dictionaries.formats import dictionary_learning, gemma_scope, llama_scope, saelens, sparsify
from microtome.dictionaries.formats.hub import fetch
from microtome.dictionaries.formats.places import layer_of, place_of
from microtome.dictionaries.formats.qwen_scope import FILE as QWEN_FILE
from microtome.dictionaries.formats.qwen_scope import open_qwen_scope
from microtome.dictionaries.stored import DictionaryFile

KNOWN = (
    "sparsify (sae.safetensors), SAELens (sae_weights.safetensors), dictionary_learning (ae.pt), Gemma Scope"
    " (params.npz), Llama Scope (hyperparams.json) and Qwen Scope (layer0.sae.pt)"
)
DEEPEST = 5  # folders searched below the one that is given


def open_dictionary(path: str | Path, layer: int | None = None, site: str | None = None) -> DictionaryFile:
    """Open a dictionary of any known format.

    ``path``: a folder or file of one dictionary, a folder with many of which ``layer`` (and ``site``, where a
    layer has several) chooses one, either with ``{layer}`` in its name, or a Hugging Face name such as
    ``owner/name`` or ``owner/name/folder``. Raises ``CannotLoad`` in one line.
    """
    text = str(path)
    filled = text
    if "{layer}" in text:
        if layer is None:
            raise CannotLoad(f"{text}: holds {{layer}}; say which layer")
        filled = text.replace("{layer}", str(layer))
    try:
        here = Path(filled).expanduser()
        local = here.exists()
    except (OSError, RuntimeError, ValueError):
        here, local = Path(filled), False
    if local:
        root, files = here, _files(here)
    else:
        root, files = fetch(filled, lambda names: _choose(filled, names, layer, site))
    found = _open(root / _choose(filled, files, layer, site))
    if layer is not None and "{layer}" not in text and found.config.layer not in (None, layer):
        raise CannotLoad(f"{text}: is a dictionary of layer {found.config.layer}, not {layer}")
    return found


def dictionaries_in(path: str | Path) -> list[int] | None:
    """The layers that a local folder holds dictionaries of; None for one dictionary, or what is not local."""
    here = Path(path).expanduser()
    if "{layer}" in str(path) or not here.is_dir():
        return None
    files = _files(here)
    if len(files) < 2:
        return None
    return sorted({number for file in files if (number := _layer(file)) is not None}) or None


def _open(file: Path) -> DictionaryFile:
    try:
        if file.name == sparsify.WEIGHTS:
            return sparsify.open_sparsify(file.parent)
        if file.name == saelens.WEIGHTS:
            return saelens.open_saelens(file.parent)
        if file.name == dictionary_learning.WEIGHTS:
            return dictionary_learning.open_dictionary_learning(file.parent)
        if file.name in gemma_scope.FILES or file.suffix == ".npz":
            return gemma_scope.open_gemma_scope(file)
        if file.name == PurePosixPath(llama_scope.WEIGHTS).name:
            return llama_scope.open_llama_scope(file.parent.parent)
        return open_qwen_scope(file)
    except CannotLoad:
        raise
    except MicrotomeError as error:  # a configuration that contradicts itself
        raise CannotLoad(f"{file}: {error}") from None


def is_weights(name: str) -> bool:
    """Whether a file, by its path, holds the weights of a dictionary."""
    last = PurePosixPath(name).name
    known = (sparsify.WEIGHTS, saelens.WEIGHTS, dictionary_learning.WEIGHTS, *gemma_scope.FILES)
    return last in known or name.endswith(llama_scope.WEIGHTS) or QWEN_FILE.fullmatch(last) is not None


def _files(here: Path) -> list[str]:
    """The weight files in a folder, or the file itself (``.``)."""
    if here.is_file():
        if not is_weights(here.name) and here.suffix != ".npz":
            raise CannotLoad(f"{here}: not the weights of a dictionary; known are {KNOWN}")
        return ["."]
    found = [
        str(PurePosixPath(file.relative_to(here)))
        for depth in range(DEEPEST)
        for file in here.glob("*/" * depth + "*")
        if is_weights(str(PurePosixPath(file.relative_to(here)))) and file.is_file()
    ]
    if not found and (here / llama_scope.WEIGHTS).is_file():
        found = [llama_scope.WEIGHTS]
    return sorted(set(found))


def _choose(text: str, files: list[str], layer: int | None, site: str | None) -> str:
    """The one weight file that is meant. Raises ``CannotLoad`` when that is none or several."""
    if not files:
        raise CannotLoad(f"{text}: no dictionary in it; known are {KNOWN}")
    if len(files) == 1:
        return files[0]
    meant = files
    layers = sorted({number for file in files if (number := _layer(file)) is not None})
    if layer is not None:
        meant = [file for file in files if _layer(file) == layer]
        if not meant:
            raise CannotLoad(f"{text}: no dictionary of layer {layer}; there are {_ranges(layers)}")
    elif len(layers) > 1:
        raise CannotLoad(f"{text}: holds dictionaries of layers {_ranges(layers)}; say which layer")
    if site is not None and len(meant) > 1:
        meant = [file for file in meant if place_of(_folder(file))[0] == site]
    if len(meant) == 1:
        return meant[0]
    some = ", ".join(map(_folder, meant[:4])) + (", ..." if len(meant) > 4 else "")
    raise CannotLoad(
        f"{text}: holds {len(meant) or len(files)} dictionaries that fit ({some}); name one of them"
    )


def _folder(file: str) -> str:
    parts = PurePosixPath(file)
    return str(parts.parent.parent if file.endswith(llama_scope.WEIGHTS) else parts.parent)


def _layer(file: str) -> int | None:
    if QWEN_FILE.fullmatch(PurePosixPath(file).name):
        return layer_of(PurePosixPath(file).name)
    parts = PurePosixPath(_folder(file)).parts
    return next((number for part in parts if (number := layer_of(part)) is not None), None)


def _ranges(layers: list[int]) -> str:
    """``0, 1, 2, 5`` as ``0-2, 5``."""
    parts: list[list[int]] = []
    for number in layers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
