"""Labels as class numbers, and a balanced choice of so many images."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from microtome.core.errors import CannotLoad, bad_value
from microtome.data.labelled_images import LabelledImages, Labels


def encode(values: Sequence[Any]) -> Labels:
    """Class numbers in the order of the classes' names; numbers are sorted as numbers (2 before 10)."""
    texts = [_text(value) for value in values]
    names = sorted(set(texts), key=in_order)
    number = {name: i for i, name in enumerate(names)}
    return Labels(np.array([number[text] for text in texts], dtype=np.int64), tuple(names))


def in_order(name: str) -> tuple[int, float, str]:
    """The key that sorts numbers as numbers, before words."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def choose(labels: Labels, limit: int | None) -> Int[np.ndarray, " n"]:
    """Rows in order: all, or ``limit`` of them, as many of each class as can be, the first ones of each."""
    n = len(labels.values)
    if limit is None or limit >= n:
        return np.arange(n)
    if limit < 1:
        raise bad_value("limit", limit, "no images", "use 1 or more")
    order = np.argsort(labels.values, kind="stable")
    rank = np.empty(n, dtype=np.int64)  # position among the images of the same class
    starts = np.searchsorted(labels.values[order], np.arange(len(labels.names)))
    rank[order] = np.arange(n) - starts[labels.values[order]]
    return np.sort(np.lexsort((labels.values, rank))[:limit])


def pick(labels: Labels, rows: Int[np.ndarray, " n"]) -> Labels:
    """The labels of some rows; classes of which none is left are no longer counted."""
    kept = np.unique(labels.values[rows])
    return Labels(np.searchsorted(kept, labels.values[rows]), tuple(labels.names[i] for i in kept))


def labelled(
    pixels: Tensor, labels: Mapping[str, Labels], names: Sequence[str], source: str
) -> LabelledImages:
    """The images with their digest. Raises ``CannotLoad`` unless some label has two classes."""
    if not len(pixels):
        raise CannotLoad(f"{source}: holds no images; give a folder with some")
    if all(len(label.names) < 2 for label in labels.values()):
        only = next((label.names[0] for label in labels.values() if label.names), "none")
        raise CannotLoad(
            f"{source}: one class only ({only}); there is nothing to tell apart, give images of two or more"
        )
    digest = blake2b(np.ascontiguousarray(pixels.numpy()).data, digest_size=16)
    digest.update(str(tuple(pixels.shape)).encode())
    for name, label in labels.items():
        digest.update(f"{name} {label.names}".encode() + label.values.astype("<i8").tobytes())
    return LabelledImages(pixels, dict(labels), tuple(names), source, digest.hexdigest())
