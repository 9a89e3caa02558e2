"""``consolidated_results.npz``: all layers in one file, its metadata readable with and without pickle."""

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microtome.core.atomic import atomic_path
from microtome.core.errors import CannotLoad, bad_value
from microtome.core.plain import plain_value

METADATA = "metadata"
_COMMENT_LIMIT = 65_535  # bytes that a zip file's comment holds
# What a dictionary of numbers, words and arrays needs; anything else a pickle asks for is refused.
_HARMLESS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    *(("builtins", name) for name in ("complex", "set", "frozenset", "bytearray", "slice", "range")),
}


def save_consolidated(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> Path:
    """Write the arrays and ``metadata`` as one compressed npz, atomically.

    ``np.load(path, allow_pickle=True)['metadata'].item()`` is the metadata as a dict; the same stands as JSON
    in the zip file's comment, which `load_npz` reads, so that nothing has to be unpickled.
    """
    path = Path(path)
    if path.is_dir():
        raise bad_value("save_consolidated", str(path), "is a folder", "name a file such as results.npz")
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    boxed = np.empty((), dtype=object)
    boxed[()] = dict(metadata)
    comment = json.dumps(plain_value(metadata)).encode()
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays, metadata=boxed)  # pyright: ignore[reportArgumentType]
        if len(comment) <= _COMMENT_LIMIT:
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.comment = comment
    return path


def load_npz(path: Path, allow_pickle: bool = False) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of a consolidated file. Raises ``CannotLoad``.

    Metadata that exists as a pickle only (files of the original scripts) is read with ``allow_pickle``, by an
    unpickler that knows plain values and numpy arrays and refuses everything else; otherwise it is empty.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            comment = archive.comment
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            arrays = {
                name.removesuffix(".npy"): _array(archive.read(name))
                for name in names
                if name != f"{METADATA}.npy"
            }
            pickled = archive.read(f"{METADATA}.npy") if f"{METADATA}.npy" in names else b""
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        what = "no such file" if not path.exists() else f"truncated or no npz file ({error})"
        raise CannotLoad(f"{path}: {what}; give a consolidated_results.npz") from None
    except Exception as error:  # zlib's own
        raise CannotLoad(f"{path}: truncated or damaged ({type(error).__name__}: {error})") from None
    return arrays, _with_whole_keys(_metadata(path, comment, pickled, allow_pickle))


def _metadata(path: Path, comment: bytes, pickled: bytes, allow_pickle: bool) -> dict[str, Any]:
    if comment:
        try:
            return json.loads(comment)
        except ValueError:
            if comment.startswith(b'{"model_name"'):
                raise CannotLoad(f"{path}: truncated; its end is missing, save it again") from None
    if not pickled or not allow_pickle:
        return {}
    try:
        found = _unpickled(pickled)
    except Exception as error:
        raise CannotLoad(f"{path}: its metadata is no harmless pickle ({error}); left unread") from None
    value = found.item() if isinstance(found, np.ndarray) and found.shape == () else found
    return dict(value) if isinstance(value, Mapping) else {}


def _with_whole_keys(metadata: dict[str, Any]) -> dict[str, Any]:
    """JSON makes text of the layers' numbers; they become numbers again."""
    sizes = metadata.get("dimension_sizes")
    if isinstance(sizes, dict):
        whole = {int(k) if str(k).isdigit() else k: v for k, v in sizes.items()}
        metadata = {**metadata, "dimension_sizes": whole}
    return metadata


def _array(raw: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)


def _unpickled(raw: bytes) -> Any:
    stream = io.BytesIO(raw)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    read(stream)
    return _PlainUnpickler(stream).load()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"asks for {module}.{name}")
