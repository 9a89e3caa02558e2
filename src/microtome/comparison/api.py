"""The one-call Python interface: ``microtome.compare(a, b, images=...)``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from microtome.comparison.config import CompareConfig
from microtome.comparison.result import Comparison
from microtome.comparison.run import run
from microtome.core.errors import MicrotomeError
from microtome.data.image_sources.choosing import encode, labelled
from microtome.data.labelled_images import LabelledImages
from microtome.targets.image_network import ImageNetwork, module_network

Network = nn.Module | str | Path


def compare(
    a: Network | Sequence[Network],
    b: Network | Sequence[Network],
    *,
    images: object = None,
    progress: bool = False,
    **settings: Any,
) -> Comparison:
    """Set two networks, or two lists of networks (seeds), side by side, as ``microtome compare`` does.

    ``a`` and ``b``: your own modules (copied, never changed), or whatever the command takes. ``images``:
    ``(x, labels)`` with ``x`` ``[n, C, H, W]`` as the networks take it and one label an image (or
    a mapping of several kinds), or a source that the command reads. ``settings`` are fields of
    ``CompareConfig``. Results are also kept in ``output_dir``. Raises ``MicrotomeError``.
    """
    groups = [list(one) if isinstance(one, (list, tuple)) else [one] for one in (a, b)]
    modules = [[each for each in group if isinstance(each, nn.Module)] for group in groups]
    given = None
    if any(modules):
        if modules != groups:
            raise MicrotomeError("a, b: give modules on both sides, or references on both sides")
        given = [tuple(_network(module, i) for i, module in enumerate(group)) for group in modules]
        words = [tuple(network.name for network in group) for group in given]
    else:
        words = [tuple(map(str, group)) for group in groups]
    values = {"model_a": words[0], "model_b": words[1], **settings}
    if isinstance(images, str):
        values["data"] = images
    config = CompareConfig.from_mapping(values, source="settings")
    if given is not None and (images is None or isinstance(images, str)):
        raise MicrotomeError("images: modules of yours need images=(x, labels), x as they take it")
    seen = None if images is None or isinstance(images, str) else _labelled(images)
    return run(config, networks=given, images=seen, show_progress=progress, command=["microtome.compare"])


def _network(module: nn.Module, place: int) -> ImageNetwork:
    return module_network(module, f"{type(module).__name__} {place}")


def _labelled(images: Any) -> LabelledImages:
    if not isinstance(images, (tuple, list)) or len(images) != 2:
        raise MicrotomeError(
            f"images: a {type(images).__name__}; give the pair (x, labels), or a source's name"
        )
    x, labels = images
    pixels = torch.as_tensor(x)
    if pixels.ndim != 4:
        raise MicrotomeError(f"images: x is {list(pixels.shape)}; give [images, channels, rows, columns]")
    columns = labels if isinstance(labels, Mapping) else {"label": labels}
    for name, values in columns.items():
        if len(values) != len(pixels):
            raise MicrotomeError(f"labels[{name}]: {len(values)} for {len(pixels)} images; give one an image")
    encoded = {name: encode(np.asarray(values).tolist()) for name, values in columns.items()}
    names = [f"image {i}" for i in range(len(pixels))]
    return labelled(pixels.detach().cpu(), encoded, names, "images given in memory")
