"""An order of images that depends on what they show, so that no result depends on how files were sorted."""

import dataclasses
import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64

from microtome.data.labelled_images import LabelledImages, Labels


def image_keys(images: LabelledImages) -> UInt64[np.ndarray, " N"]:
    """A 64-bit hash of every image's pixels."""
    pixels = images.pixels.contiguous().numpy()
    hashes = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pixels]
    return np.frombuffer(b"".join(hashes), dtype=np.uint64).copy()


def canonical_order(images: LabelledImages) -> Int[np.ndarray, " N"]:
    """Image numbers by their keys: pseudo-random, and the same for the same set of images."""
    return np.argsort(image_keys(images), kind="stable")


def rearranged(images: LabelledImages, rows: Int[np.ndarray, " n"]) -> LabelledImages:
    """The images ``rows``, in that order, with their labels and names."""
    return dataclasses.replace(
        images,
        pixels=images.pixels[torch.from_numpy(np.ascontiguousarray(rows))],
        labels={what: Labels(each.values[rows], each.names) for what, each in images.labels.items()},
        names=tuple(images.names[i] for i in rows),
    )


def places(keys: UInt64[np.ndarray, " n"], draws: int) -> Float[np.ndarray, "n draws 2"]:
    """Relative places in every image, uniform in [0, 1), that depend on the image's key and the draw."""
    steps = np.arange(1, 2 * draws + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = keys[:, None] + steps[None, :]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) / 2**53).reshape(len(keys), draws, 2)
