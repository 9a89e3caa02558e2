"""Was ``meta_baseline/sparse_autoencoders.py``."""

from microtome.comparison.documented.autoencoders import (
    SparseAutoEncoder,
    analyze_activations,
    collect_activations,
    compare_models_with_autoencoders,
    train_sparse_autoencoder,
    visualize_autoencoder_features,
)

__all__ = [
    "SparseAutoEncoder",
    "analyze_activations",
    "collect_activations",
    "compare_models_with_autoencoders",
    "train_sparse_autoencoder",
    "visualize_autoencoder_features",
]
