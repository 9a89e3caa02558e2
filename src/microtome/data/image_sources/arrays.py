"""Images and labels as named arrays: ``.npz`` files, and HDF5 files that hold no episodes."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from microtome.core.errors import CannotLoad
from microtome.data.image_sources.choosing import choose, encode, labelled, pick
from microtome.data.image_sources.pixels import as_pixels, resize
from microtome.data.labelled_images import LabelledImages

IMAGES = ("images", "image", "pixels", "x", "data", "inputs")
LABELS = ("labels", "label", "y", "targets", "target", "classes", "class")


def open_npz(
    path: Path, split: str, size: int | None, channels: int | None, limit: int | None
) -> LabelledImages:
    """See ``from_arrays``. Arrays that need pickle are refused. Raises ``CannotLoad``."""
    if not path.is_file():
        raise CannotLoad(f"{path}: no such file; check the path of the images")
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise CannotLoad(f"{path}: a single array; save images and labels with numpy.savez")
            arrays = {name: file[name] for name in file.files}
    except CannotLoad:
        raise
    except Exception as error:
        objects = "pickle" in str(error) and zipfile.is_zipfile(path)
        why = "holds objects, which need pickle" if objects else "truncated or not an npz file"
        raise CannotLoad(f"{path}: {why}; save plain arrays with numpy.savez") from None
    return from_arrays(arrays, split, size, channels, limit, str(path))


def from_arrays(
    arrays: Mapping[str, Shaped[np.ndarray, "..."]],
    split: str,
    size: int | None,
    channels: int | None,
    limit: int | None,
    source: str,
) -> LabelledImages:
    """Images under ``images`` (or ``x``, ``data``, ...), one label an image in every other array of N.

    ``x_train``, ``y_train``, ``x_test``, ... are split. Raises ``CannotLoad`` when either is missing.
    """
    arrays = _of_split(arrays, split, source)
    by_name = {name.lower(): name for name in arrays}
    key = next(
        (by_name[name] for name in IMAGES if name in by_name and arrays[by_name[name]].ndim >= 3), None
    )
    if key is None:
        key = next((name for name, array in arrays.items() if array.ndim >= 3), None)
    if key is None:
        raise CannotLoad(
            f"{source}: no images among its arrays ({', '.join(arrays) or 'none'}); store them as images"
            " [N, H, W] or [N, H, W, 3]"
        )
    n = len(arrays[key])
    found = {
        name: array.reshape(n)
        for name, array in arrays.items()
        if name != key and array.shape in ((n,), (n, 1))
    }
    if not found or n == 0:
        shown = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise CannotLoad(
            f"{source}: no array with a label for each of {n} images ({shown}); store labels [N]"
        )
    named = {("label" if name.lower() in LABELS else name): array for name, array in found.items()}
    for name, array in named.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CannotLoad(f"{source}: NaN or infinity among {name}; give each image a label")
    first = sorted(named, key=lambda name: name != "label")
    labels = {name: encode(named[name].tolist()) for name in first}
    rows = choose(labels[first[0]], limit)
    pixels = resize(as_pixels(arrays[key][rows], source), size, channels)
    return labelled(
        pixels, {name: pick(label, rows) for name, label in labels.items()}, [str(i) for i in rows], source
    )


def _of_split(
    arrays: Mapping[str, Shaped[np.ndarray, "..."]], split: str, source: str
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays whose names end in ``_test`` (or begin with ``test_``), without that; all if none does."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        for part in ("train", "val", "test"):
            bare = name.removesuffix(f"_{part}").removeprefix(f"{part}_")
            if bare != name:
                parts.setdefault(part, {})[bare] = array
    if not parts:
        return dict(arrays)
    if split not in parts:
        raise CannotLoad(f"{source}: no {split} images; there are {', '.join(sorted(parts))}: use --split")
    return parts[split]
