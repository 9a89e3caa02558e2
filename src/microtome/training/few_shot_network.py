"""The network that few-shot training trains: its description, and its learned inner rates."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from microtome.core.seeds import stream_seed
from microtome.targets.module_sources import build_seeded, parse_architecture
from microtome.targets.same_different_nets import PLANS
from microtome.training.few_shot_config import FewShotTrainConfig


def network_architecture(
    config: FewShotTrainConfig, channels: int, size: int, n_classes: int
) -> dict[str, Any]:
    """The dictionary that rebuilds the network, for images ``[channels, size, size]``."""
    if config.network == "convnet":
        return {
            "kind": "few-shot-convnet",
            "channels": config.channels,
            "blocks": config.blocks,
            "in_channels": channels,
            "image_size": size,
            "n_classes": n_classes,
            "norm": config.norm,
        }
    architecture = parse_architecture(config.network)
    if config.network in PLANS:
        learned = config.network.endswith("lr") and config.algorithm != "supervised"
        shape = {"image_size": size, "in_channels": channels, "n_classes": n_classes}
        architecture = {**architecture, **shape, "learned_rates": learned}
    return architecture


def new_network(config: FewShotTrainConfig, architecture: Mapping[str, Any]) -> nn.Module:
    """The network with start values that depend on the seed alone."""
    if config.init_seed is not None:
        return build_seeded(architecture, config.init_seed)
    return build_seeded(architecture, stream_seed(config.seed, f"network/{config.algorithm}"))


def inner_rates(parameters: Mapping[str, Tensor], fixed: float) -> float | dict[str, Tensor]:
    """The inner loop's learning rate of every parameter.

    ``fixed`` unless the network learns rates as parameters: ``lr_conv.i`` of convolution i + 1 and its norm,
    ``lr_fc.i`` of fully connected layer i and its norm, ``lr_classifier``.
    """
    if "lr_classifier" not in parameters:
        return fixed
    rates = {}
    for name in parameters:
        layer = name.split(".")[0]
        if layer.startswith(("conv", "bn")):
            rates[name] = parameters[f"lr_conv.{int(re.sub(r'[a-z]+', '', layer)) - 1}"]
        elif layer in ("fc_layers", "layer_norms"):
            rates[name] = parameters[f"lr_fc.{name.split('.')[1]}"]
        elif layer == "classifier":
            rates[name] = parameters["lr_classifier"]
    return rates
