"""Gradients of a language model's loss by its activations and by dictionary features, layer by layer."""

import importlib
from typing import Any

# Public name -> module. Loaded on first use: configurations and `--help` must not wait for torch.
_PUBLIC = {
    "FeaturesConfig": "microtome.gradients.config",
    "GradientResult": "microtome.gradients.result",
    "LayersConfig": "microtome.gradients.config",
    "compare": "microtome.gradients.comparison",
    "feature_importance": "microtome.gradients.api",
    "layer_importance": "microtome.gradients.api",
    "load": "microtome.gradients.loading",
    "load_results": "microtome.gradients.loading",
}

__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'microtome.gradients' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
