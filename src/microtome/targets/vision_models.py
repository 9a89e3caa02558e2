"""Vision models through transformers, called with plain image tensors and giving plain logits."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.device import say
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.hub import hub_answers, need, without_bars


class VisionModel(nn.Module):
    """A transformers vision model on images in [0, 1], which it normalises by its own mean and deviation.

    Gives the logits of a classifier, else the pooled output, else the mean of the last hidden states.
    """

    def __init__(self, model: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model = model
        # Not part of the weights.
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B d"]:
        """Logits or the pooled features."""
        out = self.model(pixel_values=(x - self.mean) / self.std, return_dict=True)  # pyright: ignore[reportOperatorIssue]
        if getattr(out, "logits", None) is not None:
            return out.logits
        if getattr(out, "pooler_output", None) is not None:
            return torch.flatten(out.pooler_output, 1)
        hidden = out.last_hidden_state
        return hidden.mean(1) if hidden.dim() == 3 else hidden.mean((2, 3))


def load_vision_model(where: str) -> tuple[VisionModel, dict[str, Any]]:
    """The model of a local folder or a hub name, and the architecture that makes it again untrained.

    Raises ``CannotLoad`` in one line.
    """
    transformers = need("transformers", "a Hugging Face vision model")
    local = {"local_files_only": Path(where).is_dir() or not hub_answers()}
    try:
        with without_bars():
            config = transformers.AutoConfig.from_pretrained(where, **local)
            kind = _auto_class(config)
            model, told = getattr(transformers, kind).from_pretrained(
                where, output_loading_info=True, **local
            )
    except MicrotomeError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:240]
        away = "" if Path(where).is_dir() or hub_answers() else " (the hub cannot be reached)"
        raise CannotLoad(f"{where}: cannot be loaded as a vision model{away}: {line}") from error
    missing = sorted(told.get("missing_keys", ()))
    if missing:
        say(f"{where}: {len(missing)} weights are not in the checkpoint and random, such as {missing[0]}")
    if not any(hasattr(config, name) for name in ("num_channels", "image_size", "num_input_channels")):
        raise CannotLoad(f"{where}: a {config.model_type} model, which takes no images; give a vision model")
    channels, size, mean, std = _input_of(where, config, local)
    architecture = {
        "kind": "hf",
        "auto": kind,
        "config": json.loads(config.to_json_string(use_diff=False)),
        "channels": channels,
        "size": size,
        "mean": mean,
        "std": std,
    }
    return VisionModel(model, mean, std), architecture


def build_vision_model(architecture: dict[str, Any]) -> VisionModel:
    """The same architecture with fresh weights."""
    transformers = need("transformers", "a Hugging Face vision model")
    settings = dict(architecture["config"])
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = getattr(transformers, architecture["auto"]).from_config(config)
    return VisionModel(model, architecture["mean"], architecture["std"])


def _auto_class(config: Any) -> str:
    named = (getattr(config, "architectures", None) or [""])[0]
    classifier = named.endswith("ForImageClassification")
    return "AutoModelForImageClassification" if classifier else "AutoModel"


def _input_of(
    where: str, config: Any, local: dict[str, Any]
) -> tuple[int, int | None, list[float], list[float]]:
    """Channels, size, mean and deviation of the images that the model was trained on."""
    channels = int(getattr(config, "num_channels", None) or 3)
    size = getattr(config, "image_size", None)
    said: dict[str, Any] = {}
    try:
        processor = need("transformers", "").image_processing_utils.ImageProcessingMixin
        said = processor.get_image_processor_dict(where, **local)[0]
    except Exception:  # a model without a preprocessor: its configuration has to do
        said = {}
    if size is None:
        given = said.get("crop_size") or said.get("size")
        size = given.get("height") or given.get("shortest_edge") if isinstance(given, dict) else given
    if isinstance(size, (list, tuple)):
        size = size[0]
    mean, std = said.get("image_mean"), said.get("image_std")
    if said.get("do_normalize") is False or not isinstance(mean, list) or not isinstance(std, list):
        mean, std = [0.5] * channels, [0.5] * channels
        if said.get("do_normalize") is False:
            mean, std = [0.0] * channels, [1.0] * channels
    fitting = len(mean) == channels and len(std) == channels
    mean, std = (mean, std) if fitting else ([0.5] * channels, [0.5] * channels)
    return channels, int(size) if size else None, [float(v) for v in mean], [float(v) for v in std]
