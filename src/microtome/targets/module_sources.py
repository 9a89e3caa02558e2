"""Where image networks come from: classes, ``torch.export`` files, Hugging Face, and checkpoints."""

from typing import Any

from torch import nn


def build(architecture: dict[str, Any]) -> nn.Module:
    """The module that an architecture dictionary describes, freshly initialised by the global random state.

    ``{"kind": "few-shot-convnet", "channels": 64, ...}``, ``{"kind": "same-different", "name": "conv2lr"}``,
    ``{"kind": "python", "class": "package.module:Class", "arguments": {...}}``, ``{"kind": "hf", ...}``.
    """
    raise NotImplementedError
