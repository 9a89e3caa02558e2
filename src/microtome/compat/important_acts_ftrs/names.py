"""The functions that both scripts had, under their old names."""

from typing import Any

import numpy as np

from microtome.gradients.loading import load_results
from microtome.gradients.normalise import normalise_gradients
from microtome.targets.layer_list import parse_layers as parse_layer_range
from microtome.targets.module_paths import FAMILIES

__all__ = ["get_model_config", "load_results", "normalize_gradients", "parse_layer_range"]

# Part of a model's name -> config.model_type; mixtral stands before what its owner is called.
_BY_NAME = {
    "qwen": "qwen2",
    "mixtral": "mixtral",
    "zephyr": "mistral",
    "mistral": "mistral",
    "llama": "llama",
    "yi-": "llama",
    "gemma-3": "gemma3",
    "gemma-2": "gemma2",
    "gemma": "gemma",
}


def normalize_gradients(gradients: Any, method: str = "sum_abs") -> Any:
    """Scaled so that absolute values (``sum_abs``) or values (``sum``) add up to their number."""
    scaled = normalise_gradients(np.asarray(gradients, dtype=np.float64), method)
    if isinstance(gradients, np.ndarray):
        return scaled.astype(gradients.dtype)
    return gradients.new_tensor(scaled) if hasattr(gradients, "new_tensor") else scaled


def get_model_config(model_name: str) -> dict[str, str]:
    """``model_type`` and ``layer_path`` (with ``{layer}``) that a model's name suggests, else Qwen's.

    The commands do not go by names: they read the model's own configuration.
    """
    known = (kind for part, kind in _BY_NAME.items() if part in model_name.lower())
    model_type = next(known, "qwen2")
    family = FAMILIES[model_type]
    return {"model_type": model_type, "layer_path": f"{family.blocks[0]}.{family.mlp[0]}"}
