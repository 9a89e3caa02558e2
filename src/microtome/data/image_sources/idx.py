"""The idx files that MNIST and its kin come in."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from microtome.core.errors import CannotLoad
from microtome.data.image_sources.choosing import choose, encode, labelled, pick
from microtome.data.image_sources.pixels import as_pixels, resize
from microtome.data.labelled_images import LabelledImages

# Third byte of the file -> type of its numbers, big-endian.
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> Shaped[np.ndarray, "*shape"]:
    """The array in an idx file, gzipped or not, in the machine's own byte order.

    Format: two zero bytes, one for the type, one for the number of dimensions, each dimension as a big-endian
    32-bit number, then the values. Raises ``CannotLoad`` in one line for anything else.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise CannotLoad(f"{path}: cannot be read ({error}); fetch the idx file again") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise CannotLoad(f"{path}: not an idx file; its first bytes are {raw[:4].hex(' ') or 'missing'}")
    n_dimensions = raw[3]
    start = 4 + 4 * n_dimensions
    shape = tuple(int(n) for n in np.frombuffer(raw[4:start], ">u4")) if len(raw) >= start else (-1,)
    dtype = np.dtype(_TYPES[raw[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(raw) != expected or min(shape, default=1) < 0:
        raise CannotLoad(f"{path}: {len(raw)} bytes where its header announces {expected}; fetch it again")
    values = np.frombuffer(raw, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def open_idx(
    place: Path, split: str, size: int | None, channels: int | None, limit: int | None
) -> LabelledImages:
    """Label ``label``, out of ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, gzipped or not.

    ``place`` is the file of images (its labels lie beside it) or their folder, where the split ``test`` is
    called ``t10k`` or ``test``. Raises ``CannotLoad``.
    """
    images = place if place.is_file() else _images_of(place, split)
    values = read_idx(images)
    numbers = read_idx(_labels_beside(images))
    if numbers.ndim != 1 or values.ndim not in (3, 4) or len(numbers) != len(values):
        raise CannotLoad(
            f"{images}: shape {list(values.shape)} and labels of shape {list(numbers.shape)} do not belong"
            " together; give the idx3 file of images"
        )
    labels = encode(numbers.tolist())
    rows = choose(labels, limit)
    pixels = resize(as_pixels(values[rows], str(images)), size, channels)
    return labelled(pixels, {"label": pick(labels, rows)}, [str(i) for i in rows], str(images))


def _images_of(folder: Path, split: str) -> Path:
    files = sorted(path for path in folder.iterdir() if "idx3" in path.name or "idx4" in path.name)
    prefixes = ("t10k", "test") if split == "test" else (split,)
    found = next((path for path in files if path.name.startswith(prefixes)), None)
    if found is None:
        there = ", ".join(path.name for path in files) or "no idx3 files"
        raise CannotLoad(f"{folder}: no {split} images; there are {there}: use --split, or name the file")
    return found


def _labels_beside(images: Path) -> Path:
    name = images.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    bare = images.with_name(name.removesuffix(".gz"))
    choices = (images.with_name(name), bare, bare.with_name(bare.name + ".gz"))
    found = next((path for path in choices if path.is_file() and path != images), None)
    if found is None:
        raise CannotLoad(f"{images}: its labels, {name}, are not beside it; put them there")
    return found
