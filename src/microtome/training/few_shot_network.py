"""The network that few-shot training trains."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError
from microtome.core.seeds import stream_seed
from microtome.targets.module_sources import build_seeded, parse_architecture
from microtome.training.few_shot_config import FewShotTrainConfig


def network_architecture(
    config: FewShotTrainConfig, channels: int, size: int, n_classes: int
) -> dict[str, Any]:
    """The dictionary that rebuilds the network, for images ``[channels, size, size]``.

    Without learned rates and softmax for ``supervised``, which has no inner loop.
    """
    if config.network == "convnet":
        convnet = {"channels": config.channels, "blocks": config.blocks, "norm": config.norm}
        architecture: dict[str, Any] = {"kind": "few-shot-convnet", **convnet}
    else:
        architecture = parse_architecture(config.network)
    if architecture["kind"] in ("few-shot-convnet", "same-different"):
        architecture |= {"image_size": size, "in_channels": channels, "n_classes": n_classes}
    if architecture["kind"] == "same-different":
        learned = architecture["name"].endswith("lr") and config.algorithm != "supervised"
        architecture |= {"learned_rates": learned}
    return architecture


def check_outputs(network: str, module: nn.Module, x: Float[Tensor, "B C H W"], n_classes: int) -> None:
    """Try the network on images. Raises ``MicrotomeError`` when it does not give ``n_classes`` outputs."""
    try:
        with torch.no_grad():
            output = module(x)
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise MicrotomeError(
            f"network={network!r}: does not take images of {'x'.join(map(str, x.shape[1:]))} ({line}); set"
            " size and colours"
        ) from None
    if not isinstance(output, Tensor) or tuple(output.shape) != (len(x), n_classes):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise MicrotomeError(
            f"network={network!r}: gives {shape} for {len(x)} images; it needs {n_classes} outputs an image"
        )


def new_network(config: FewShotTrainConfig, architecture: Mapping[str, Any]) -> nn.Module:
    """The network with start values that depend on the seed alone."""
    if config.init_seed is not None:
        return build_seeded(architecture, config.init_seed)
    return build_seeded(architecture, stream_seed(config.seed, f"network/{config.algorithm}"))
