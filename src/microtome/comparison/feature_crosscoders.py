"""What a cross-coder of two networks finds: features of the first alone, of the second alone, shared."""

import numpy as np
import torch

from microtome.comparison.feature_layer import Layer
from microtome.comparison.feature_training import explained_by_image
from microtome.dictionaries.crosscoder import CrossCoder

ONLY = 0.1  # decoder-norm ratio up to which a feature is the first model's alone


@torch.no_grad()
def crosscoder_shares(
    layer: Layer, coder: CrossCoder, names: tuple[str, str]
) -> tuple[dict[str, float], np.ndarray]:
    """Shares of the active features by whose they are, what they explain, and each's decoder-norm ratio."""
    both = {name: layer.data.rows[name] for name in names}
    f = coder.encode(both)
    alive = (f > 0).any(0)
    ratio = coder.norm_ratio()[alive].numpy()
    out = layer.data.held_out
    x_hat = coder.decode(f[out])
    explained = [
        float(explained_by_image(both[name][out], x_hat[name], layer.data.image[out])[1].mean())
        for name in names
    ]
    count = max(len(ratio), 1)
    return {
        "first's only": float((ratio < ONLY).sum() / count),
        "second's only": float((ratio > 1 - ONLY).sum() / count),
        "shared": float(((ratio >= ONLY) & (ratio <= 1 - ONLY)).sum() / count),
        "explained variance of the first": explained[0],
        "explained variance of the second": explained[1],
        "features at a time": float((f[out] > 0).sum(1).float().mean()),
        "dead share": 1 - float(alive.float().mean()),
    }, ratio
