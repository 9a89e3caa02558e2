"""Batch norms without running statistics: what a network says of an image must not depend on its batch.

With statistics of the batch, a batch that holds one class only tells the class to every layer after the norm.
"""

import copy
import dataclasses
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from microtome.comparison.image_order import canonical_order
from microtome.data.labelled_images import LabelledImages
from microtome.hooks import first_tensor
from microtome.targets.image_network import ImageNetwork

Mode = Literal["frozen", "batch", "native"]
NUMBERS_AT_ONCE = 2**23  # of the largest layer, while statistics are taken


def needs_calibration(module: nn.Module) -> list[str]:
    """Names of the batch norms that have no running statistics and so use those of the batch."""
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and (part.running_mean is None or part.running_var is None)
    ]


def frozen(
    network: ImageNetwork, images: LabelledImages, mode: Mode = "frozen", batch_size: int = 32
) -> ImageNetwork:
    """A copy whose batch norms use statistics of the data set, whatever its order and the batches.

    The statistics are those of one single batch: all images, or, where their activations exceed 32 MiB in the
    largest layer, as many as fit, chosen by their content. "batch" lets every batch norm use the batch's own
    statistics; "native" gives the network as it is, and so does "frozen" when nothing needs it.
    ``batch_size`` has no influence; it is there to be passed on.
    """
    del batch_size
    if mode == "native":
        return network
    if mode == "batch":
        return dataclasses.replace(network, module=_forgetful(network.module))
    names = needs_calibration(network.module)
    if not names:
        return network
    rows = canonical_order(images)
    rows = rows[: max(2, NUMBERS_AT_ONCE // _largest(network, images, rows[:2]))]
    return dataclasses.replace(network, module=_remembering(network, names, _inputs(network, images, rows)))


def depends_on_batch(network: ImageNetwork, images: LabelledImages, tolerance: float = 1e-3) -> bool:
    """Whether the output for the same images changes with the others in the batch.

    It finds what ``needs_calibration`` cannot see, such as norms inside an exported graph.
    """
    rows = canonical_order(images)[:12]
    if len(rows) < 4:
        return False
    with torch.no_grad():
        together = first_tensor(network.module(_inputs(network, images, rows)))[:2]
        apart = first_tensor(network.module(_inputs(network, images, rows[: len(rows) // 2])))[:2]
    size = together.abs().max().clamp(min=1e-30)
    return bool((together - apart).abs().max() / size > tolerance)


def _inputs(network: ImageNetwork, images: LabelledImages, rows: np.ndarray) -> Float[Tensor, "n C H W"]:
    x = images.inputs(torch.from_numpy(rows), mean=network.mean, std=network.std)
    x = x.to(memory_format=torch.channels_last)
    weight = next(network.module.parameters(), None)
    return x if weight is None else x.to(weight.device)


def _largest(network: ImageNetwork, images: LabelledImages, rows: np.ndarray) -> int:
    """Numbers an image in the largest output of any module."""
    sizes = [1]
    watch = _on_outputs(network.module, lambda out: sizes.append(out[0].numel()))
    try:
        with torch.no_grad():
            network.module(_inputs(network, images, rows))
    finally:
        for handle in watch:
            handle.remove()
    return max(sizes)


def _on_outputs(module: nn.Module, tell: Callable[[Tensor], None]) -> list:
    def hook(_module: nn.Module, _args: tuple, out: object) -> None:
        if isinstance(out, Tensor) and out.ndim:
            tell(out)

    leaves = [part for part in module.modules() if next(part.children(), None) is None]
    return [part.register_forward_hook(hook) for part in leaves]


class _AllHeard(Exception):
    """Every norm has run: the rest of the network need not."""


def _remembering(network: ImageNetwork, names: list[str], x: Float[Tensor, "n C H W"]) -> nn.Module:
    """A copy whose named norms hold mean and variance of what they are given in one batch ``x``."""
    changed = _copy(network.module)
    norms = [changed.get_submodule(name) for name in names]
    seen: dict[nn.Module, int] = {}

    def after(norm: nn.Module, args: tuple, _out: object) -> None:
        value = first_tensor(args)
        seen[norm] = value.numel() // value.shape[1]
        if len(seen) == len(norms):
            raise _AllHeard

    handles = []
    for norm in norms:
        assert isinstance(norm, _BatchNorm)
        norm.track_running_stats, norm.momentum = True, 1.0
        norm.running_mean = torch.zeros(norm.num_features, device=x.device)
        norm.running_var = torch.ones(norm.num_features, device=x.device)
        norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=x.device)
        norm.training = True
        handles.append(norm.register_forward_hook(after))
    try:
        with torch.no_grad(), suppress(_AllHeard):
            changed(x)
    finally:
        for handle in handles:
            handle.remove()
    for norm, count in seen.items():
        assert isinstance(norm, _BatchNorm) and norm.running_var is not None
        norm.running_var.mul_((count - 1) / count)  # a batch is normalised by the biased variance
    return changed.eval()


def _copy(module: nn.Module) -> nn.Module:
    """A copy of the structure that shares the parameters."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})


def _forgetful(module: nn.Module) -> nn.Module:
    changed = _copy(module)
    for norm in changed.modules():
        if isinstance(norm, _BatchNorm):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    return changed.eval()
